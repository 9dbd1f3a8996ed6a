"""Whether the latents of an autoencoder of sentences help a tagger: two small taggers, one of which reads them.

Both have the settings of the builtin, without the second answer to each window, and the same training chapters, steps
and seed; one starts from the encoder of ``--autoencoder``, which has seen the same books and no paragraphs. F1 is that
of the books of split val, by the offsets in the rows; the margin is drawn in pairs of chapters, 1,000 times. Characters
a CPU second are those of preparing and scoring every 16th chapter in one thread. Resumable.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.builtin import SETTINGS
from benchmarks.camvid import job
from benchmarks.documents import segmented
from benchmarks.measures import document_sets
from benchmarks.measures.boundary_figures import estimates, f1_margin, figures
from benchmarks.measures.document_sets import Document
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.task import TextSegmentation

_TRAINING = {"task.consistency": 0.0, "train.threads": 1, "train.workers": 1, "split": "train"}
_KINDS = ("all", "fiction", "nonfiction")
_EVERY = 16  # of the chapters, whose speed is taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/latents"), help="where packages go")
    parser.add_argument("--autoencoder", default=".bench/text_autoencoder/package", help="package of an autoencoder")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    work = arguments.work / "small" if arguments.small else arguments.work
    chapters = document_sets.books(data, "val")
    found: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for name, more in {"words": {}, "words and latents": {"init": arguments.autoencoder}}.items():
        out = work / name.replace(" ", "-")
        settings = SETTINGS | _TRAINING | {"train.epochs": 1 if arguments.small else arguments.epochs} | more
        given = [part for option, value in settings.items() for part in (f"--{option}", value)]
        trained = job(
            *("train_text_segmenter", "--documents", data / "books" / "books.jsonl.gz", "--out", out / "tagger"), *given
        )
        starts = segmented(name, str(out / "tagger"), {"books": chapters}, out)["books"]
        found[name] = np.array([figures(item, begins) for item, begins in zip(chapters, starts, strict=True)])
        for kind in _KINDS:
            value = estimates(found[name][_places(chapters, kind)])["f1"]
            rows.append({"reads": name, "documents of": kind, "f1": value.value, "from": value.low, "to": value.high})
        rows[-3] |= {"training s": trained["training_seconds"], "characters a CPU second": speed(out, chapters)}
    words, both = list(found.values())
    for kind in _KINDS:
        places = _places(chapters, kind)
        value = f1_margin(both[places], words[places])
        rows.append({"reads": "margin", "documents of": kind, "f1": value.value, "from": value.low, "to": value.high})
    headline = {"f1_gain_of_latents": rows[-3]["f1"], "f1_words": rows[0]["f1"]}
    record("latents", rows, headline, f"seed 0, one run of each. {__doc__}", small=arguments.small)


def _places(chapters: list[Document], kind: str) -> list[int]:
    return [place for place, item in enumerate(chapters) if kind in ("all", item.kind)]


def speed(out: Path, chapters: list[Document]) -> float:
    """Characters a second of processor time, from texts to scores."""
    found = package.load(str(out / "tagger"))
    task, model, characters = config.from_dict(TextSegmentation, found.task), found.model(), 0
    torch.set_num_threads(1)
    started = time.process_time()
    for item in chapters[::_EVERY]:
        row = {"data": json.dumps({"text": item.text}).encode(), "format": "json", "label": None}
        prepared = task.prepare(pa.Table.from_pylist([row], INPUT_SCHEMA)).drop_columns(["error"])
        task.predict(model, prepared, torch.device("cpu"))
        characters += len(item.text)
    return characters / (time.process_time() - started)


if __name__ == "__main__":
    main()
