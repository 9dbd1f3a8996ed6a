"""Makes the model inside the wheel, ``builtin:paragraphs-en``: one small network, trained on the books of split train.

Its word vectors are fewer and narrower than those of the default settings, and its weights are stored in half
precision. A fiftieth of the training chapters is held out to choose the weights by. F1 is that of the books of split
val, as in ``benchmarks.document_training``; it is measured with the halved weights. The rows of "without punctuation"
are of the same books without punctuation and case, where "f1 of all" is that of saying that a paragraph begins wherever
a sentence may. Resumable. With ``--init`` the training goes on from the package that is installed, for a few epochs;
with ``--keep`` the weights of the installed package stay, and only its figures and its novelty are made anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.camvid import job
from benchmarks.document_novelty import fit
from benchmarks.document_training import book_rows
from benchmarks.documents import segmented
from benchmarks.measures import document_sets
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.text.task import TextSegmentation

NAME = "paragraphs-en"
_FOLDER = Path(__file__).parent.parent / "pipeline" / "builtin" / NAME
_BUCKETS = 16_384
SETTINGS = {
    "task.buckets": _BUCKETS,
    "model.buckets": _BUCKETS,
    "model.vector_size": 96,
    "model.width": 48,
    "model.hidden": 192,
    "model.recurrent_members": 1,
    "model.attention_members": 0,
    "task.languages": '["en"]',
    "train.precision": "bfloat16",
    "validation_fraction": 0.02,
}
# A training that goes on: with a smaller step, and without the second answer to each window, which takes half the time.
_CONTINUED = {
    "init": f"builtin:{NAME}",
    "train.epochs": 2,
    "train.learning_rate": 1.5e-3,
    "task.consistency": 0.0,
    "task.unpunctuated_fraction": 0.6,
    "train.threads": 1,
}
_LICENCE = (
    "Trained on 799 chapters of public-domain books in English, and on nothing else. The weights are under the licence "
    "of this project."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/builtin"), help="where the training goes")
    parser.add_argument("--install", action="store_true", help=f"put the package into pipeline/builtin/{NAME}")
    parser.add_argument("--init", action="store_true", help="go on from the package that is installed")
    parser.add_argument("--keep", action="store_true", help="keep the weights of the package that is installed")
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    work = arguments.work / "small" if arguments.small else arguments.work
    if arguments.init:
        work = work / "continued"
    seconds = None if arguments.keep else trained(data, work, arguments)
    half = halved(_FOLDER if arguments.keep else work / "tagger", work / NAME, card={})
    rows = measured(data, str(half), work)
    fiction = next(row for row in rows if row["documents of"] == "fiction, without punctuation")
    headline = {
        "f1_builtin_books": rows[0]["f1"],
        "f1_unpunctuated_fiction": fiction["f1"],
        "margin_unpunctuated_fiction": fiction["f1"] - fiction["f1 of all"],
        "builtin_bytes": sum(file.stat().st_size for file in half.iterdir()),
        "training_seconds": seconds,
    }
    if arguments.install:
        install(half, rows, "python -m benchmarks.builtin" + (", then with --init" if arguments.init else ""), data)
    record("builtin", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def trained(data: Path, work: Path, arguments: argparse.Namespace) -> float:
    """Train, or find what is trained; seconds since the training last started."""
    settings: dict[str, Any] = SETTINGS | (_CONTINUED if arguments.init else {})
    given = [item for name, value in settings.items() for item in (f"--{name}", value)]
    given += ["--train.epochs", 1] if arguments.small else []
    books = data / "books" / "books.jsonl.gz"
    found = job("train_text_segmenter", "--documents", books, "--split", "train", "--out", work / "tagger", *given)
    return found["training_seconds"]


def measured(data: Path, uri: str, work: Path) -> list[dict[str, Any]]:
    """Figures of the books of split val, as they are and without punctuation."""
    sets = {"books": document_sets.books(data, "val"), "unpunctuated": document_sets.books_without_marks(data, "val")}
    rows = []
    for name, chapters in sets.items():
        starts = segmented("builtin", uri, {"books": chapters}, work / name)["books"]
        more = ", without punctuation" if name == "unpunctuated" else ""
        rows += [row | {"documents of": row["documents of"] + more} for row in book_rows(chapters, starts)]
    return rows


def install(half: Path, rows: list[dict[str, Any]], command: str, data: Path) -> None:
    """Put a package into the wheel, with its figures in its card, and fit its novelty."""
    named = {row["documents of"].replace(", ", " books, ", 1): row["f1"] for row in rows}
    figures = {f"F1 of {name}" + ("" if "books" in name else " books"): round(f1, 3) for name, f1 in named.items()}
    figures |= {"F1 of saying that every sentence begins a paragraph": round(rows[0]["f1 of all"], 3)}
    card = {"data": _LICENCE, "figures on the books of split val": figures, "command": command}
    shutil.rmtree(_FOLDER, ignore_errors=True)
    halved(half, _FOLDER, card=card)
    fit(_FOLDER, document_sets.books(data, "train"))


def halved(source: Path, out: Path, card: dict[str, object]) -> Path:
    """The same package with its weights in half precision. Networks load them as float32."""
    found = package.load(str(source))
    model = found.model()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.abs().max() < torch.finfo(torch.float16).max, name
    task = config.from_dict(TextSegmentation, found.task)
    package.save(str(out), model_name=found.model_name, model=model.half(), task=task, card=card)
    return out


if __name__ == "__main__":
    main()
