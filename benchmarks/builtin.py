"""Makes the model inside the wheel, ``builtin:paragraphs-en``: one small network, trained on the books of split train.

Its word vectors are fewer and narrower than those of the default settings, and its weights are stored in half
precision. A fiftieth of the training chapters is held out to choose the weights by. F1 is that of the books of split
val, as in ``benchmarks.documents``; it is measured with the halved weights. Resumable.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

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
    "train.precision": "bfloat16",
    "validation_fraction": 0.02,
}
_LICENCE = (
    "Trained on 799 chapters of public-domain books in English, and on nothing else. The weights are under the licence "
    "of this project."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/builtin"), help="where the training goes")
    parser.add_argument("--install", action="store_true", help=f"put the package into pipeline/builtin/{NAME}")
    parser.add_argument("--small", action="store_true", help="one epoch: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    books, work = data / "books" / "books.jsonl.gz", arguments.work / "small" if arguments.small else arguments.work
    given = [item for name, value in SETTINGS.items() for item in (f"--{name}", value)]
    small = ["--train.epochs", 1] if arguments.small else []
    trained = job(
        "train_text_segmenter", "--documents", books, "--split", "train", "--out", work / "tagger", *given, *small
    )
    half = halved(work / "tagger", work / NAME, card={})
    chapters = document_sets.books(data, "val")
    rows = book_rows(chapters, segmented("builtin", str(half), {"books": chapters}, work)["books"])
    headline = {
        "f1_builtin_books": rows[0]["f1"],
        "builtin_bytes": sum(file.stat().st_size for file in half.iterdir()),
        "training_seconds": trained["training_seconds"],
    }
    if arguments.install:
        figures = {f"F1 of {row['documents of']} books": round(row["f1"], 3) for row in rows}
        figures |= {"F1 of saying that every sentence begins a paragraph": round(rows[0]["f1 of all"], 3)}
        made = {
            "data": _LICENCE,
            "figures on the books of split val": figures,
            "command": "python -m benchmarks.builtin",
        }
        shutil.rmtree(_FOLDER, ignore_errors=True)
        halved(work / "tagger", _FOLDER, card=made)
        fit(_FOLDER, document_sets.books(data, "train"))
    record("builtin", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


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
