"""Documents with known boundaries, in the sets that figures of documents are about."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.text.inputs import Spans, join_paragraphs, paragraph_starts, split_sentences
from pipeline.text.plain import without_marks

#: Subsets of Choi (2000), by the sentences of a segment.
CHOI = ("3-11", "3-5", "6-8", "9-11")
_PIECES = 10  # of a made document, as in Choi
_FEWEST, _MOST = 3, 11  # sentences of a piece


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that does not show its boundaries. All numbers are offsets into it."""

    doc_id: str
    text: str
    starts: list[int]
    """Where its parts begin: paragraphs, or in Choi's documents segments."""
    units: list[int]
    """Where its sentences begin: in Choi's documents those that are given, elsewhere those of `split_sentences`."""
    group: str = ""
    """Title of the book, or genre."""
    kind: str = ""
    """``fiction`` or ``nonfiction``."""
    split: str = ""


def books(data: Path, split: str) -> list[Document]:
    """The chapters of the books of a split, paragraphs joined by one space."""
    return chapters(data / "books" / "books.jsonl.gz", split)


def chapters(file: Path, split: str) -> list[Document]:
    """The same, of a file of chapters."""
    rows = (row for row in records(file) if row["split"] == split)
    return [_joined(row, row["paragraphs"], row["title"], row["kind"]) for row in rows]


def books_without_marks(data: Path, split: str) -> list[Document]:
    """The same chapters without punctuation and case."""
    found = []
    for row in records(data / "books" / "books.jsonl.gz"):
        if row["split"] == split:
            text, spans = without_marks(row["text"], row["paragraphs"])
            found.append(_document(row, text, spans, row["title"], row["kind"]))
    return found


def brown(data: Path, split: str | None = None) -> list[Document]:
    """The documents of the Brown corpus, of one split or all, paragraphs joined by one space."""
    rows = (row for row in records(data / "brown" / "brown.jsonl.gz") if split in (None, row["split"]))
    return [_joined(row, row["paragraphs"], row["category"], "") for row in rows]


def choi(data: Path, subset: str) -> list[Document]:
    """The documents of a subset of Choi (2000). A blank line stands before every sentence, so that all are found."""
    return [_of_sentences(row) for row in _choi(data) if row["subset"] == subset]


@functools.cache
def _choi(data: Path) -> list[dict[str, Any]]:
    return list(records(data / "choi" / "choi.jsonl.gz"))


def concatenations(chapters: Sequence[Document], count: int, seed: int) -> list[dict[str, Any]]:
    """Records with the topics of ``chapters`` in a row, made as Choi made his: each has ten pieces of 3 to 11 sentences
    from different chapters. A piece begins with a paragraph; ``paragraphs`` are the pieces."""
    random = np.random.default_rng(seed)
    long = [chapter for chapter in chapters if len(chapter.units) >= _MOST]
    assert len(long) >= _PIECES, len(long)
    made = []
    for number in range(count):
        pieces = [
            _piece(long[index], int(random.integers(_FEWEST, _MOST + 1)), random)
            for index in random.choice(len(long), _PIECES, replace=False)
        ]
        text, spans = join_paragraphs("\n\n".join(pieces), _spans(pieces, 2), " ")
        made.append({"doc_id": f"made-{seed}-{number}", "text": text, "paragraphs": [list(span) for span in spans]})
    return made


def _piece(chapter: Document, size: int, random: np.random.Generator) -> str:
    """So many sentences from the beginning of one of its paragraphs, or of fewer near its end."""
    places = np.searchsorted(chapter.units, chapter.starts)
    places = places[places + size <= len(chapter.units)]
    first = int(random.choice(places)) if len(places) else 0
    edges = [*chapter.units, len(chapter.text)]
    return chapter.text[edges[first] : edges[min(first + size, len(chapter.units))]].strip()


def records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, which may be compressed."""
    opened: Callable[..., Any] = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _joined(row: dict[str, Any], paragraphs: Sequence[Sequence[int]], group: str, kind: str) -> Document:
    return _document(row, *join_paragraphs(row["text"], paragraphs), group, kind)


def _document(row: dict[str, Any], text: str, spans: Spans, group: str, kind: str) -> Document:
    starts = paragraph_starts(text, spans)
    units = split_sentences(text)[:, 0].tolist()
    return Document(
        doc_id=row["doc_id"], text=text, starts=starts, units=units, group=group, kind=kind, split=row["split"]
    )


def _of_sentences(row: dict[str, Any]) -> Document:
    text, spans = join_paragraphs(row["text"], row["sentences"], "\n\n")
    assert len(spans) == len(row["last_in_segment"]), row["doc_id"]
    units = [start for start, _ in spans]
    begins = [True, *map(bool, row["last_in_segment"][:-1])]
    starts = [start for start, is_first in zip(units, begins, strict=True) if is_first]
    return Document(doc_id=row["doc_id"], text=text, starts=starts, units=units, group=row["subset"])


def _spans(pieces: Sequence[str], glue: int) -> list[tuple[int, int]]:
    ends = np.cumsum([len(piece) + glue for piece in pieces]) - glue
    return [(int(end) - len(piece), int(end)) for piece, end in zip(pieces, ends, strict=True)]
