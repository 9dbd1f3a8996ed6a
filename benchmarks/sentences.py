"""The rules for sentences beside two libraries, sentencex and nupunkt: on short texts that are hard, in 40 languages,
and on the books of split val.

A text is right if all sentences begin where they should; "missed" are beginnings that were not found, over all texts,
and "extra" those that are none. For paragraphs, a missed beginning does harm, since no model can find it then, while an
extra one is only one more question. In the books, whose paragraphs are joined by one space, "recall" is the share of
the paragraphs that begin at a sentence. Speeds are the median of three rounds in turn, on one core; nupunkt reads a
tenth of the books. Needs ``pip install sentencex nupunkt``, which are no requirement of the project.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.measures.document_sets import records
from benchmarks.record import data_folder, record
from pipeline.text.inputs import join_paragraphs, paragraph_starts, split_sentences
from testing.sentence_cases import cases

_LIBRARIES = ("sentencex", "nupunkt")
_ROUNDS = 3
_SLOW_SHARE = 10

#: A text and its language in, where sentences begin out.
Splitter = Callable[[str, str], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="a few books: shows that it runs")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    splitters: dict[str, Splitter] = {"parquetry": _ours, **_libraries()}
    books = [
        join_paragraphs(item["text"], item["paragraphs"])
        for item in records(data / "books" / "books.jsonl.gz")
        if item["split"] == "val"
    ][:: 20 if arguments.small else 1]
    speeds: dict[str, list[float]] = {name: [] for name in splitters}
    for _ in range(_ROUNDS):
        for name, split in splitters.items():
            speeds[name].append(_chars_per_s(split, [text for text, _ in books[:: _share(name)]]))
    rows = [
        {"sentences by": name}
        | _on_cases(split)
        | _on_books(split, books[:: _share(name)])
        | {"chars/s": statistics.median(speeds[name])}
        for name, split in splitters.items()
    ]
    headline = {
        "cases_right": rows[0]["right"],
        "cases_right_of_best_library": max(row["right"] for row in rows[1:]),
        "missed": rows[0]["missed"],
        "recall_books": rows[0]["recall"],
    }
    used = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    record("sentences", rows, headline, f"{used}. {__doc__}", small=arguments.small)


def _ours(text: str, language: str) -> list[int]:
    return split_sentences(text)[1:, 0].tolist()


def _libraries() -> dict[str, Splitter]:
    try:
        for name in _LIBRARIES:
            version(name)
    except PackageNotFoundError:
        sys.exit(f"this benchmark needs {' and '.join(_LIBRARIES)}: pip install {' '.join(_LIBRARIES)}")
    import nupunkt  # pyright: ignore[reportMissingImports]
    import sentencex  # pyright: ignore[reportMissingImports]

    def by_sentencex(text: str, language: str) -> list[int]:
        return [item["start_index"] for item in sentencex.get_sentence_boundaries(language, text)]

    def by_nupunkt(text: str, language: str) -> list[int]:
        return [start for start, _ in nupunkt.sent_spans(text)]

    return {"sentencex": by_sentencex, "nupunkt": by_nupunkt}


def _share(name: str) -> int:
    return _SLOW_SHARE if name == "nupunkt" else 1


def _on_cases(split: Splitter) -> dict[str, Any]:
    right, missed, extra, wrong = 0, 0, 0, []
    for language, kind, text, starts in cases():
        found = set(_first_characters(text, split(text, language)))
        right += found == set(starts)
        missed += len(set(starts) - found)
        extra += len(found - set(starts))
        if found != set(starts):
            wrong.append(f"{language}: {kind}")
    return {"cases": len(cases()), "right": right, "missed": missed, "extra": extra, "wrong": wrong}


def _first_characters(text: str, starts: list[int]) -> Iterator[int]:
    """The starts, moved behind white space, without those at the ends of the text."""
    for start in starts:
        place = start + len(text[start:]) - len(text[start:].lstrip())
        if text[:place].strip() and place < len(text):
            yield place


def _on_books(split: Splitter, books: list[tuple[str, list[tuple[int, int]]]]) -> dict[str, Any]:
    found = paragraphs = sentences = words = 0
    for text, spans in books:
        starts = [start for start in split(text, "en") if start]
        sentences, words = sentences + len(starts) + 1, words + len(text.split())
        wanted = paragraph_starts(text, spans)[1:]
        found, paragraphs = found + len(set(wanted) & set(starts)), paragraphs + len(wanted)
    return {"recall": found / paragraphs, "sentences for 1,000 words": 1000 * sentences / words}


def _chars_per_s(split: Splitter, texts: list[str]) -> float:
    started = time.perf_counter()
    for text in texts:
        split(text, "en")
    return sum(map(len, texts)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
