"""Paragraph boundaries in books: train on the books of split train, find the breaks in those of split val.

The paragraphs of each chapter are joined by one space, so nothing but the words says where they were. A tenth of the
training chapters is held out to choose the weights by; val chooses nothing. F1 counts
boundaries over all documents, but not the start of the document, from the offsets in the table. Resumable.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.camvid import job
from benchmarks.record import data_folder, record
from pipeline.distributed.table import open_delta
from pipeline.text.inputs import join_paragraphs, split_sentences
from pipeline.text.metrics import Counts, boundaries_of, count_boundaries, mean, pk, window_diff


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/documents"), help="where package and table go")
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    books, work = data / "books" / "books.jsonl.gz", arguments.work / "small" if arguments.small else arguments.work
    setting = ["--train.precision", "bfloat16"]
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
    record("documents", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def hide(books: Path, out: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write the val chapters with their paragraphs joined by one space; return the truth of each line."""
    truths = []
    for line in gzip.decompress(books.read_bytes()).splitlines():
        chapter = json.loads(line)
        if chapter["split"] == "val":
            text, spans = join_paragraphs(chapter["text"], chapter["paragraphs"])
            truths.append({"doc_id": chapter["doc_id"], "kind": chapter["kind"], "text": text, "spans": spans})
    out.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"doc_id": item["doc_id"], "text": item["text"]}) + "\n" for item in truths)
    if not out.exists() or out.read_text() != content:
        out.write_text(content)
    return out, truths


def measure(sink: str, truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for all documents and one for each kind."""
    columns = ["member", "paragraphs", "num_chars", "error"]
    found = {row["member"]: row for row in pa.table(open_delta(sink).to_pyarrow_table(columns=columns)).to_pylist()}
    assert len(found) == len(truths), (len(found), len(truths))
    kinds: dict[str, list[dict[str, Any]]] = {"all": [], "fiction": [], "nonfiction": []}
    for number, truth in enumerate(truths, 1):
        row = found[str(number)]
        spans = row["paragraphs"]
        tiles = [0, *(span["end"] for span in spans)] == [*(span["start"] for span in spans), len(truth["text"])]
        assert tiles, truth["doc_id"]
        text = truth["text"]
        starts = [end - len(text[start:end].lstrip()) for start, end in truth["spans"]]
        guessed = [span["start"] for span in spans]
        units = split_sentences(text)[:, 0].tolist()
        reference, answer = boundaries_of(units, starts), boundaries_of(units, guessed)
        scores = {
            "counts": count_boundaries(starts, guessed),
            "all": count_boundaries(starts, units),
            "pk": pk(reference, answer),
            "window_diff": window_diff(reference, answer),
        }
        kinds["all"].append(scores)
        kinds[truth["kind"]].append(scores)
    return [{"documents of": kind, **_line(scores)} for kind, scores in kinds.items()]


def _line(scores: list[dict[str, Any]]) -> dict[str, Any]:
    counts = sum((score["counts"] for score in scores), Counts())
    every = sum((score["all"] for score in scores), Counts())
    return {
        "documents": len(scores),
        "f1": counts.f1,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1 of all": every.f1,
        "best recall": every.recall,
        "macro f1": mean(score["counts"].f1 for score in scores),
        "macro f1 of all": mean(score["all"].f1 for score in scores),
        "pk": mean(score["pk"] for score in scores),
        "window_diff": mean(score["window_diff"] for score in scores),
    }


if __name__ == "__main__":
    main()
