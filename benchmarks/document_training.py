"""Makes the taggers that ``benchmarks.documents`` measures beside the builtin.

``--what books``: the default settings on the books of split train, 25 minutes on two free cores. A fiftieth of the
training chapters is held out to choose the weights by; val chooses nothing.

``--what brown``: the builtin trained further on the 309 documents of Brown's train split, one thread.

``--what topics``: a small network that finds changes of topic, for the documents of Choi (2000), which are cut from
Brown. It learns from 3,000 made documents, each of ten pieces of 3 to 11 sentences from different chapters of the books
of split train, and sees neither Choi nor Brown. One thread.

``--held-out 0`` to ``3``, with ``--what books``, is for choosing settings: every fourth book of split train stands in
for val, which is never read, and no result is written. Resumable: a package that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.camvid import job
from benchmarks.documents import segmented, write_once
from benchmarks.measures import document_sets
from benchmarks.measures.boundary_figures import estimates, figures
from benchmarks.measures.document_sets import Document, records
from benchmarks.record import data_folder, record
from pipeline import package

FOLDS = 4
_MADE = 3_000
_SEED = 0
#: The settings of the builtin, with more ids since a word that comes again is all that tells a topic.
_TOPICS = {
    "task.buckets": 32_768,
    "model.buckets": 32_768,
    "model.vector_size": 96,
    "model.width": 48,
    "model.hidden": 192,
    "model.recurrent_members": 1,
    "model.attention_members": 0,
    "task.consistency": 0,
    "train.epochs": 8,
}
_BROWN = {
    "init": "builtin:paragraphs-en",
    "split": "train",
    "train.epochs": 6,
    "train.learning_rate": 5e-4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--what", nargs="+", choices=("books", "brown", "topics"), default=("books",))
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="where packages go")
    parser.add_argument("--held-out", type=int, choices=range(FOLDS), help="books of split train instead of val")
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books and brown in it")
    work = arguments.work / "small" if arguments.small else arguments.work
    small = {"train.epochs": 1} if arguments.small else {}
    rows = []
    for what in arguments.what:
        if what == "books":
            rows += books(data, work / "documents", small, arguments.held_out)
        elif what == "brown":
            rows.append(brown(data, work / "brown", small))
        else:
            rows.append(topics(data, work / "topics", small, 100 if arguments.small else _MADE))
    write = arguments.held_out is None and "books" in arguments.what
    headline = {"f1_books": rows[0]["f1"]} if "books" in arguments.what else {}
    record("document_training", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small, write=write)


def books(data: Path, work: Path, small: dict[str, Any], fold: int | None) -> list[dict[str, Any]]:
    """Train on books; a line of figures for all documents of those that are held out, and for each kind."""
    source = data / "books" / "books.jsonl.gz"
    if fold is not None:
        work = work / f"held-out-{fold}"
        source = hold_out(source, fold, work / "books.jsonl")
    trained = train(work, source, {"split": "train", "train.precision": "bfloat16"} | small)
    chapters = document_sets.chapters(source, "val")
    rows = book_rows(chapters, segmented("large", str(work / "tagger"), {"books": chapters}, work)["books"])
    return [*rows, trained]


def book_rows(chapters: Sequence[Document], starts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Figures of all chapters together and by kind; ``f1 of all`` is the guess that every sentence is a paragraph."""
    rows = []
    found = np.array([figures(item, begins) for item, begins in zip(chapters, starts, strict=True)])
    trivial = np.array([figures(item, item.units) for item in chapters])
    for kind in ("all", "fiction", "nonfiction"):
        chosen = [place for place, item in enumerate(chapters) if kind in ("all", item.kind)]
        values = {name: estimate.value for name, estimate in estimates(found[chosen]).items()}
        row = {"documents of": kind, "documents": len(chosen), **values}
        rows.append(row | {"f1 of all": estimates(trivial[chosen])["f1"].value})
    return rows


def brown(data: Path, work: Path, small: dict[str, Any]) -> dict[str, Any]:
    source = data / "brown" / "brown.jsonl.gz"
    return train(work, source, {**_builtin_settings(), **_BROWN, **_one_thread(), **small})


def topics(data: Path, work: Path, small: dict[str, Any], count: int) -> dict[str, Any]:
    made = document_sets.concatenations(document_sets.books(data, "train"), count, _SEED)
    write_once(work / "made.jsonl", "".join(json.dumps(line) + "\n" for line in made))
    return train(work, work / "made.jsonl", {**_TOPICS, **_one_thread(), **small})


def train(work: Path, source: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A package in ``work/tagger``, made if it is not there; how long it took."""
    given = [part for name, value in settings.items() for part in (f"--{name}", value)]
    out = work / "tagger"
    found = job("train_text_segmenter", "--documents", source, "--out", out, "--validation_fraction", 0.02, *given)
    return {"documents of": f"training of {work.name}, seconds", "f1": None, "seconds": found["training_seconds"]}


def _builtin_settings() -> dict[str, Any]:
    """The sizes of the builtin, which a training that starts from it must have."""
    found = package.load(_BROWN["init"])
    sizes = {f"model.{name}": value for name, value in found.model_config.items()}
    return sizes | {"task.buckets": found.task["buckets"]}


def _one_thread() -> dict[str, Any]:
    return {"train.threads": 1, "train.workers": 1, "train.precision": "bfloat16"}


def hold_out(source: Path, fold: int, out: Path) -> Path:
    """Write the chapters of split train, with those of every fourth book in a split val of their own."""
    known = [chapter for chapter in records(source) if chapter["split"] == "train"]
    held = sorted({chapter["title"] for chapter in known})[fold::FOLDS]
    parts = [chapter | {"split": "val" if chapter["title"] in held else "train"} for chapter in known]
    write_once(out, "".join(json.dumps(chapter) + "\n" for chapter in parts))
    return out


if __name__ == "__main__":
    main()
