"""Boundaries in documents: every method on every set, in one table.

Sets: the books of split val by book and by kind; the test split of the Brown corpus, and each of its 15 genres with all
500 documents; the documents of Choi (2000) by subset. Paragraphs are joined by one space, Choi's sentences by a blank
line each, so nothing but the words says where parts begin.

Methods: ``builtin`` and ``large``, taggers trained on the books of split train; ``brown``, the builtin trained further
on Brown's train split, on its test split only; ``topics``, a tagger trained on pieces of chapters of those books in a
row, on Choi only; ``autoencoder``, a text autoencoder without labels; TextTiling and C99; and three guesses that ignore
the text: a boundary before every k-th sentence (k by the training books; 7 on Choi), before all, and before none.
Packages that are not there have no column: ``python -m benchmarks.document_training`` makes them.

F1 is of all boundaries together, from the offsets in the rows; the other measures are means over documents, with
sentences as units. In brackets: 95 % by drawing documents again, 1,000 times. In the headline, ``f1_books`` without the
package of ``large`` is what its training recorded. Resumable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.camvid import job
from benchmarks.measures import document_sets
from benchmarks.measures.bootstrap import Estimate
from benchmarks.measures.boundary_figures import MEASURES, estimates, f1_margin, figures
from benchmarks.measures.document_sets import CHOI, Document
from benchmarks.record import RESULTS, data_folder, record
from pipeline import config, package
from pipeline.package import place_of
from pipeline.rows import INPUT_SCHEMA
from pipeline.table.readers import open_delta
from pipeline.text.inputs import split_sentences
from pipeline.text.task import TextSegmentation

SETS = ("books", "brown", "choi")
_GUESSES = ("every", "all", "none")
_TRAINED = {"large": "documents", "brown": "brown", "topics": "topics"}
METHODS = ("builtin", "large", "brown", "topics", "autoencoder", "texttiling", "c99", *_GUESSES)
_CHOI_SENTENCES = 7
_BATCH = 16
_FEWER = 25  # every so many-th document of a small run

Found = dict[str, list[list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="where packages and tables are")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--autoencoder", help="package of a text autoencoder")
    parser.add_argument("--small", action="store_true", help="every 25th document, and methods without a training")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books, brown and choi in it")
    documents = {name: _documents(data, name)[:: _FEWER if arguments.small else 1] for name in arguments.sets}
    work = arguments.work / ("documents-table-small" if arguments.small else "documents-table")
    packages = _packages(arguments)
    every = max(2, round(_sentences_of_a_paragraph(data))) if "every" in arguments.methods else 0
    found: dict[str, Found] = {}
    for name, wanted in documents.items():
        guesses = [method for method in _GUESSES if method in arguments.methods]
        step = _CHOI_SENTENCES if name == "choi" else every
        found[name] = {method: [figures(item, guess(method, item, step)) for item in wanted] for method in guesses}
    for method, uri in packages.items():
        for name, starts in segmented(method, uri, documents, work).items():
            pairs = zip(documents[name], starts, strict=True)
            found[name][method] = [figures(item, begins) for item, begins in pairs]
    rows = [row for name, wanted in documents.items() for row in _rows(name, wanted, found[name])]
    record("documents", rows, headline(rows), f"seed 0, one run. {__doc__}", small=arguments.small)


def _documents(data: Path, name: str) -> list[Document]:
    if name == "books":
        return document_sets.books(data, "val")
    if name == "brown":
        return document_sets.brown(data)
    return [document for subset in CHOI for document in document_sets.choi(data, subset)]


def _packages(arguments: argparse.Namespace) -> dict[str, str]:
    """The packages that are there, by method."""
    named = {"builtin": "builtin:paragraphs-en", "texttiling": "builtin:texttiling", "c99": "builtin:c99"}
    if arguments.autoencoder:
        named["autoencoder"] = arguments.autoencoder
    for method, folder in _TRAINED.items():
        place = arguments.work / folder / "tagger"
        if (place / "config.json").exists() and not arguments.small:
            named[method] = str(place)
    return {method: named[method] for method in METHODS if method in named and method in arguments.methods}


def guess(method: str, document: Document, step: int) -> list[int]:
    """The starts of a guess that ignores the text. Units are the sentences that `split_sentences` finds."""
    starts = split_sentences(document.text)[:, 0].tolist()
    return {"every": starts[::step], "all": starts, "none": starts[:1]}[method]


def _sentences_of_a_paragraph(data: Path) -> float:
    chapters = document_sets.books(data, "train")
    return sum(len(item.units) for item in chapters) / sum(len(item.starts) for item in chapters)


def segmented(method: str, uri: str, documents: dict[str, list[Document]], work: Path) -> dict[str, list[list[int]]]:
    """The starts that a package finds in the documents of each set for which it is meant."""
    meant = {"brown": ("brown",), "topics": ("choi",)}.get(method, SETS)
    wanted = {name: items for name, items in documents.items() if name in meant}
    described = package.load(uri)
    if described.kind != TextSegmentation.kind:
        return _by_job(method, uri, wanted, work)
    return {name: _in_process(described, items, work / method / f"{name}.json") for name, items in wanted.items()}


def _in_process(described: package.Package, documents: list[Document], kept: Path) -> list[list[int]]:
    """By the task in this process, as in the stream; kept in a file, and found there again."""
    task = config.from_dict(TextSegmentation, described.task)
    digest = hashlib.sha256("\0".join(item.text for item in documents).encode()).hexdigest()
    of_what = {"package": described.digest, "results": task.results, "documents": digest}
    if kept.exists() and (known := json.loads(kept.read_text()))["of"] == of_what:
        return known["starts"]
    model, starts = described.model(), []
    for begin in range(0, len(documents), _BATCH):
        batch = documents[begin : begin + _BATCH]
        inputs = [{"data": item.text.encode(), "format": "object", "label": None} for item in batch]
        prepared = task.prepare(pa.Table.from_pylist(inputs, INPUT_SCHEMA))
        assert prepared["error"].null_count == len(batch), prepared["error"]
        rows = task.encode(task.predict(model, prepared.drop(["error"]), torch.device("cpu"))).to_pylist()
        starts += [[span["start"] for span in row["paragraphs"]] for row in rows]
    write_once(kept, json.dumps({"of": of_what, "starts": starts}))
    return starts


def _by_job(method: str, uri: str, documents: dict[str, list[Document]], work: Path) -> dict[str, list[list[int]]]:
    """By `segment_documents`, from its table."""
    for name, items in documents.items():
        lines = ({"doc_id": item.doc_id, "text": item.text} for item in items)
        write_once(work / "source" / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    sources = [part for name in documents for part in ("--source", work / "source" / f"{name}.jsonl")]
    sink = work / "sinks" / method
    job("segment_documents", *sources, "--model", uri, "--sink", sink)
    return {name: _starts(sink, f"{name}.jsonl", len(items)) for name, items in documents.items()}


def _starts(sink: Path, file: str, count: int) -> list[list[int]]:
    """The starts of paragraphs in each line of a file, from the table."""
    table = pa.table(open_delta(str(sink)).to_pyarrow_table(columns=["uri", "member", "paragraphs", "error"]))
    found = {int(row["member"]): row for row in table.to_pylist() if row["uri"].endswith(f"/{file}")}
    assert len(found) == count, (sink, file, len(found), count)
    broken = [row["error"] for row in found.values() if row["error"] is not None]
    assert not broken, broken[0]
    return [[span["start"] for span in found[number]["paragraphs"]] for number in range(1, count + 1)]


def _rows(name: str, documents: Sequence[Document], found: Found) -> Iterator[dict[str, Any]]:
    """A row for each measure of each part of a set."""
    rows = {method: np.array(values) for method, values in found.items()}
    for title, is_in, leaves_out in _parts(name, documents):
        chosen = [place for place, item in enumerate(documents) if is_in(item)]
        if not chosen:
            continue
        parts = {method: values[chosen] for method, values in rows.items() if method not in leaves_out}
        known = {method: estimates(values) for method, values in parts.items()}
        for measure in MEASURES:
            values = {method: found_[measure] for method, found_ in known.items()}
            yield {"set": title, "documents": len(chosen), "measure": measure} | _cells(values)
        if "all" in parts:
            values = {method: f1_margin(one, parts["all"]) for method, one in parts.items() if method not in _GUESSES}
            yield {"set": title, "documents": len(chosen), "measure": "f1 over that of all"} | _cells(values)


def _parts(
    name: str, documents: Sequence[Document]
) -> Iterator[tuple[str, Callable[[Document], bool], tuple[str, ...]]]:
    """The parts of a set: a title, what belongs to it, and the methods that saw some of it in training."""
    groups = list(dict.fromkeys(item.group for item in documents))
    if name == "books":
        yield "books", lambda item: True, ()
        for kind in ("fiction", "nonfiction"):
            yield f"books, {kind}", lambda item, kind=kind: item.kind == kind, ()
    if name == "brown":
        yield "Brown, test", lambda item: item.split == "test", ()
        yield "Brown, all", lambda item: True, ("brown",)
    leaves_out = ("brown",) if name == "brown" else ()
    prefix = {"books": "book: ", "brown": "Brown, ", "choi": "Choi, "}[name]
    for group in groups:
        yield f"{prefix}{group}", lambda item, group=group: item.group == group, leaves_out


def _cells(values: dict[str, Estimate]) -> dict[str, Any]:
    """Each value as text with its interval, for people, and all as numbers."""
    order = [method for method in METHODS if method in values]
    cells = {name: "{:.3f} [{:.3f}, {:.3f}]".format(*values[name]) for name in order}
    return cells | {"values": {name: list(values[name]) for name in order}}


def headline(rows: Sequence[dict[str, Any]]) -> dict[str, float | int | None]:
    """The main figures; None where the set or the package was not there."""

    def value(title: str, measure: str, method: str) -> float | None:
        found = [row["values"] for row in rows if (row["set"], row["measure"]) == (title, measure)]
        return found[0][method][0] if found and method in found[0] else None

    titles = list(dict.fromkeys(row["set"] for row in rows))
    genres = [title for title in titles if title.startswith("Brown, ") and title not in ("Brown, test", "Brown, all")]
    margins = [value(title, "f1 over that of all", "builtin") for title in genres]
    unsupervised = [_difference(value(t, "f1", "autoencoder"), value(t, "f1", "texttiling")) for t in titles]
    builtin = Path(place_of("builtin:paragraphs-en"))
    return {
        "f1_books": value("books", "f1", "large") or _recorded(),
        "f1_books_trivial": value("books", "f1", "all"),
        "f1_builtin_books": value("books", "f1", "builtin"),
        "builtin_bytes": sum(file.stat().st_size for file in builtin.iterdir()),
        "pk_choi_3_11": value("Choi, 3-11", "pk", "topics"),
        "f1_brown": value("Brown, test", "f1", "brown"),
        "f1_brown_books_only": value("Brown, test", "f1", "builtin"),
        "least_margin_brown_genre": min((item for item in margins if item is not None), default=None),
        "least_margin_unsupervised_over_texttiling": min((x for x in unsupervised if x is not None), default=None),
        "margin_plain_transcript_fiction": None,
    }


def _recorded() -> float | None:
    """F1 of the large tagger, from the results of its training."""
    file = RESULTS / "document_training.json"
    return json.loads(file.read_text())["headline"]["f1_books"] if file.exists() else None


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def write_once(out: Path, content: str) -> None:
    """Nothing where it stands there already, so that its time stays and what was made of it is known again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists() or out.read_text() != content:
        out.write_text(content)


if __name__ == "__main__":
    main()
