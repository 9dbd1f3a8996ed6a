"""Strange documents for ``builtin:paragraphs-en``, and how well its novelty tells them from English books.

The books are those of split val, chapter by chapter, paragraphs joined by one space. Strange are: the German prose in
the manual pages of this machine (lines of at least 80 characters), the modules of Python's standard library, the words
of the same chapters in random order, and the first five sentences of the same chapters again and again. For a look at
what is less strange: Brown, and the prose in 100 English manual pages. AUROC is of the raw novelty, of whole documents
and of the first 300 words; beside it, that of uncertainty, and how many per cent have a novelty above 95.

``--fit`` first fits the novelty of the package in pipeline/builtin to the books of split train, whole chapters, without
a training of its network, and stores it there.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from benchmarks.measures import document_sets
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.feature_gaussian import auroc
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.features import SentenceFeatures
from pipeline.text.inputs import split_sentences
from pipeline.text.task import TextSegmentation
from pipeline.text.windows import features_at

BUILTIN = "builtin:paragraphs-en"
_BATCH = 16
_ENGLISH_PAGES = 100
_SHORT_WORDS = 300
_LEAST_LINE = 80
_LEAST_CHARS = 1_500
_STRANGE = ("German manual pages", "Python source", "shuffled words", "repeated sentences")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--fit", action="store_true", help="first fit novelty to the training books, and store it")
    parser.add_argument("--small", action="store_true", help="every tenth document")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    if arguments.fit:
        fit(Path(package.place_of(BUILTIN)), document_sets.books(data, "train"))
    found = package.load(BUILTIN)
    task, model = config.from_dict(TextSegmentation, found.task), found.model()
    step = 10 if arguments.small else 1
    known = [document.text for document in document_sets.books(data, "val")][::step]
    sets = {"books of split val": known} | {name: texts[::step] for name, texts in strangers(known).items()}
    sets["Brown"] = [document.text for document in document_sets.brown(data)][::step]
    rows = _rows(task, model, {name: texts for name, texts in sets.items() if texts})
    headline = {"auroc_least": min((row["auroc"] for row in rows if row["documents of"] in _STRANGE), default=None)}
    record("document_novelty", rows, headline, f"seed 0. {__doc__}", small=arguments.small)


def fit(folder: Path, chapters: Sequence[document_sets.Document]) -> str:
    """Fit novelty to chapters, and write it to the package in a folder; returns what is to be known of it."""
    found = package.load(str(folder))
    model = found.model()
    task = with_novelty(config.from_dict(TextSegmentation, found.task), model, chapters)
    card = (folder / "card.md").read_text()
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "package"
        package.save(str(made), model_name=found.model_name, model=model.half(), task=task, card={})
        for name in ("model.safetensors", "config.json"):
            shutil.copy(made / name, folder / name)
    before, after = re.split(r"(?:## columns\n.*?)?(?=## versions)", card, maxsplit=1, flags=re.DOTALL)
    remark = task.remarks["novelty"]
    (folder / "card.md").write_text(f"{before}## columns\n\n- novelty: {remark}\n\n{after}")
    return remark


def with_novelty(
    task: TextSegmentation, model: nn.Module, chapters: Sequence[document_sets.Document]
) -> TextSegmentation:
    """The task with the novelty of chapters. Those of a book are held out together."""
    titles = sorted({chapter.group for chapter in chapters})
    features = [_features(task, chapter.text) for chapter in chapters]
    return task.with_novelty(model, features, [titles.index(chapter.group) for chapter in chapters])


def _features(task: TextSegmentation, text: str) -> SentenceFeatures:
    row = {"data": text.encode(), "format": "object", "label": None}
    return features_at(task.prepare(pa.Table.from_pylist([row], INPUT_SCHEMA)), 0)


def strangers(known: Sequence[str]) -> dict[str, list[str]]:
    """Strange documents by name, and English manual pages."""
    order = random.Random(0)
    return {
        "German manual pages": list(manual_pages("de")),
        "Python source": list(_sources()),
        "shuffled words": [" ".join(order.sample(words := text.split(), len(words))) for text in known],
        "repeated sentences": [_repeated(text) for text in known],
        "English manual pages": list(itertools.islice(manual_pages(""), _ENGLISH_PAGES)),
    }


def manual_pages(language: str) -> Iterator[str]:
    """The prose of the manual pages of this machine in a language: lines of some length, joined by one space."""
    files = sorted((Path("/usr/share/man") / language).glob("man[0-9]/*.gz"))
    settings = {**os.environ, "MANWIDTH": "10000", "LC_ALL": "C.UTF-8"}
    for file in files:
        if file.is_symlink() or len(gzip.decompress(file.read_bytes())) < _LEAST_CHARS:
            continue
        command = ["man", "-l", "-P", "cat", str(file)]
        page = subprocess.run(command, capture_output=True, text=True, env=settings, check=False).stdout
        lines = [re.sub(r"\s+", " ", line.strip()) for line in page.splitlines()]
        text = " ".join(line for line in lines[1:-1] if len(line) >= _LEAST_LINE)
        if len(text) >= _LEAST_CHARS:
            yield text


def _sources() -> Iterator[str]:
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text()
        if len(text) >= _LEAST_CHARS:
            yield text


def _repeated(text: str) -> str:
    """The first five sentences again and again, as long as the text."""
    sentences = split_sentences(text)
    piece = text[: sentences[min(5, len(sentences)) - 1, 1]].strip() + " "
    return piece * max(2, len(text) // len(piece))


def _rows(task: TextSegmentation, model: nn.Module, sets: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A line for each set, beside the first one."""
    whole = {name: _scores(task, model, texts) for name, texts in sets.items()}
    short = {name: _scores(task, model, [_shortened(text) for text in texts]) for name, texts in sets.items()}
    first = next(iter(sets))
    rows = []
    for name, texts in sets.items():
        row: dict[str, Any] = {"documents of": name, "documents": len(texts)}
        for title, found in (("", whole), (f", {_SHORT_WORDS} words", short)):
            row[f"auroc{title}"] = auroc(found[first]["novelty_raw"], found[name]["novelty_raw"])
            row[f"auroc of uncertainty{title}"] = auroc(found[first]["uncertainty"], found[name]["uncertainty"])
            row[f"% above 95{title}"] = 100 * float((found[name]["novelty"] > 95).mean())
        rows.append(row)
    return rows


def _shortened(text: str) -> str:
    return " ".join(text.split()[:_SHORT_WORDS])


def _scores(task: TextSegmentation, model: nn.Module, texts: list[str]) -> dict[str, np.ndarray]:
    """The columns of the rows of some documents, as in a run."""
    found: dict[str, list[float]] = {"novelty": [], "novelty_raw": [], "uncertainty": []}
    for start in range(0, len(texts), _BATCH):
        rows = [{"data": text.encode(), "format": "object", "label": None} for text in texts[start : start + _BATCH]]
        prepared = task.prepare(pa.Table.from_pylist(rows, INPUT_SCHEMA)).drop(["error"])
        table = task.encode(task.predict(model, prepared, torch.device("cpu")))
        for name, values in found.items():
            values += [0.0 if value is None else value for value in table[name].to_pylist()]
    return {name: np.array(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
