"""Paragraph boundaries in books: train on the books of split train, find the breaks in those of split val.

The paragraphs of each chapter are joined by one space, so nothing but the words says where they were. A fiftieth of
the training chapters is held out to choose the weights by; val chooses nothing. F1 counts boundaries over all
documents, but not the start of the document, from the offsets in the table. Resumable.

``--held-out 0`` to ``3`` is for choosing settings: every fourth book of split train stands in for val, which is never
read, and no result is written.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.camvid import job
from benchmarks.record import data_folder, record
from pipeline.table.readers import open_delta
from pipeline.text.inputs import join_paragraphs, paragraph_starts, split_sentences
from pipeline.text.metrics import Score, score, summarize
from pipeline.text.plain import without_marks

FOLDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/documents"), help="where package and table go")
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs, not how good it is")
    parser.add_argument("--held-out", type=int, choices=range(FOLDS), help="books of split train instead of val")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    books, work = data / "books" / "books.jsonl.gz", arguments.work / "small" if arguments.small else arguments.work
    if arguments.held_out is not None:
        work = work / f"held-out-{arguments.held_out}"
        books = hold_out(books, arguments.held_out, work / "books.jsonl")
    setting = ["--train.precision", "bfloat16", "--validation_fraction", "0.02"]
    small = ["--train.epochs", "1"] if arguments.small else []
    trained = job(
        "train_text_segmenter", "--documents", books, "--split", "train", "--out", work / "tagger", *setting, *small
    )
    hidden, truths = hide(books, work / "val.jsonl")
    table = job("segment_documents", "--source", hidden, "--model", work / "tagger", "--sink", work / "sink")
    rows = measure(str(work / "sink"), truths)
    rows.append({"documents of": "training seconds since it last started", "value": trained["training_seconds"]})
    busy = table["stage_seconds"]["prepare"] + table["stage_seconds"]["predict"] + table["stage_seconds"]["encode"]
    characters = sum(len(truth["text"]) for truth in truths)
    rows.append({"documents of": "characters a second and core, prepare to encode", "value": characters / busy})
    names = ["f1_books", "f1_books_trivial", "f1_books_texttiling", "f1_books_c99", "pk_choi_3_11", "f1_brown"]
    headline = dict.fromkeys(names) | {"f1_books": rows[0]["f1"], "f1_books_trivial": rows[0]["f1 of all"]}
    write = arguments.held_out is None
    record("documents", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small, write=write)


def chapters(books: Path) -> Iterator[dict[str, Any]]:
    data = books.read_bytes()
    for line in (gzip.decompress(data) if books.suffix == ".gz" else data).splitlines():
        yield json.loads(line)


def hold_out(books: Path, fold: int, out: Path) -> Path:
    """Write the chapters of split train, with those of every fourth book in a split val of their own."""
    known = [chapter for chapter in chapters(books) if chapter["split"] == "train"]
    held = sorted({chapter["title"] for chapter in known})[fold::FOLDS]
    parts = [chapter | {"split": "val" if chapter["title"] in held else "train"} for chapter in known]
    write_once(out, "".join(json.dumps(chapter) + "\n" for chapter in parts))
    return out


def write_once(out: Path, content: str) -> None:
    """Nothing where it stands there already, so that its time stays and what was made of it is known again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists() or out.read_text() != content:
        out.write_text(content)


def hide(books: Path, out: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write the val chapters with their paragraphs joined by one space; return the truth of each line."""
    truths = []
    for chapter in chapters(books):
        if chapter["split"] == "val":
            text, spans = join_paragraphs(chapter["text"], chapter["paragraphs"])
            truths.append({"doc_id": chapter["doc_id"], "kind": chapter["kind"], "text": text, "spans": spans})
    hidden = ({"doc_id": item["doc_id"], "text": item["text"]} for item in truths)
    write_once(out, "".join(json.dumps(item) + "\n" for item in hidden))
    return out, truths


def hide_marks(books: Path, out: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The same as `hide`, but without punctuation and case."""
    truths = []
    for chapter in chapters(books):
        if chapter["split"] == "val":
            text, spans = without_marks(chapter["text"], chapter["paragraphs"])
            truths.append({"doc_id": chapter["doc_id"], "kind": chapter["kind"], "text": text, "spans": spans})
    write_once(out, "".join(json.dumps({"doc_id": item["doc_id"], "text": item["text"]}) + "\n" for item in truths))
    return out, truths


def measure(sink: str, truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for all documents and one for each kind."""
    columns = ["member", "paragraphs", "num_chars", "error"]
    found = {row["member"]: row for row in pa.table(open_delta(sink).to_pyarrow_table(columns=columns)).to_pylist()}
    assert len(found) == len(truths), (len(found), len(truths))
    kinds: dict[str, list[Score]] = {"all": [], "fiction": [], "nonfiction": []}
    for number, truth in enumerate(truths, 1):
        row = found[str(number)]
        spans = row["paragraphs"]
        tiles = [0, *(span["end"] for span in spans)] == [*(span["start"] for span in spans), len(truth["text"])]
        assert tiles, truth["doc_id"]
        text = truth["text"]
        starts = paragraph_starts(text, truth["spans"])
        found_starts, sentences = [span["start"] for span in spans], split_sentences(text)[:, 0].tolist()
        document = score(starts, found_starts, sentences)
        kinds["all"].append(document)
        kinds[truth["kind"]].append(document)
    return [{"documents of": kind, **_line(scores)} for kind, scores in kinds.items()]


def _line(scores: list[Score]) -> dict[str, Any]:
    found = summarize(scores)
    return {
        "documents": found.documents,
        "f1": found.counts.f1,
        "precision": found.counts.precision,
        "recall": found.counts.recall,
        "f1 of all": found.trivial.f1,
        "best recall": found.trivial.recall,
        "macro f1": found.macro_f1,
        "macro f1 of all": found.macro_f1_trivial,
        "pk": found.pk,
        "window_diff": found.window_diff,
    }


if __name__ == "__main__":
    main()
