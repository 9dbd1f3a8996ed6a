"""Chooses the rule of `pipeline.text.thresholds`: how a document's threshold is found from its scores.

A small tagger, with the settings of the builtin, learns from the fiction of split train and is tried on the non-fiction
of split train, and the other way round. So it is tried on a kind of book that it has not seen. Each chapter is tried as
it is, and made strange in three ways: with at most two sentences of each paragraph, with two paragraphs joined to one,
and with its words replaced by others (the same for the same word). val, Brown and Choi are not read.

F1 is of all boundaries of a book, and its mean over books; ``below all`` counts the books and ways in which F1 is below
that of saying that every sentence begins a paragraph, by more than its interval. EM is prior shift by Saerens et al.
(2002). Resumable.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.builtin import SETTINGS
from benchmarks.camvid import job
from benchmarks.documents import write_once
from benchmarks.measures.boundary_figures import estimates, f1_margin
from benchmarks.measures.document_sets import records
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.inputs import join_paragraphs, paragraph_starts, split_sentences
from pipeline.text.metrics import count_boundaries
from pipeline.text.novelty_trial import STRANGE
from pipeline.text.task import TextSegmentation
from pipeline.text.thresholds import best_threshold
from pipeline.text.windows import features_at

KINDS = ("fiction", "nonfiction")
_PRIOR = 0.3  # fraction of the sentences of the training books that begin a paragraph
_EM_STEPS = 30

#: From scores (s,) to a threshold.
Rule = Callable[[np.ndarray], float]


def em(scores: np.ndarray) -> float:
    """The best expected F1 after the frequency of paragraphs was estimated from the document's own scores."""
    given = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)
    prior, moved = _PRIOR, given
    for _ in range(_EM_STEPS if len(scores) > 1 else 0):
        odds = given / (1 - given) * prior / (1 - prior) * (1 - _PRIOR) / _PRIOR
        moved = odds / (1 + odds)
        prior = float(np.clip(moved[1:].mean(), 1e-3, 1 - 1e-3))
    chosen = moved >= best_threshold(moved, 0, 1)
    return float(scores[1:][chosen[1:]].min()) if chosen[1:].any() else 1.0


def _with(offset_std: float, slope: float) -> Rule:
    return lambda scores: best_threshold(scores, offset_std, slope)


RULES: dict[str, Rule] = {"as calibrated": _with(0, 1), "EM": em} | {
    f"offset {offset:g}, slope {slope:g}": _with(offset, slope)
    for offset in (0.5, 1, 1.5, 2, 3)
    for slope in (1, 0.7, 0.5)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/thresholds"), help="where packages go")
    parser.add_argument("--small", action="store_true", help="one epoch, a tenth of the chapters")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    work = arguments.work / "small" if arguments.small else arguments.work
    chapters = [row for row in records(data / "books" / "books.jsonl.gz") if row["split"] == "train"]
    chapters = chapters[:: 10 if arguments.small else 1]
    counts: dict[str, list[tuple[str, list[list[int]]]]] = {name: [] for name in (*RULES, "all")}
    for learned, tried in (KINDS, KINDS[::-1]):
        uri = _trained(work / learned, [row for row in chapters if row["kind"] == learned], arguments.small)
        for title, group, answers in _tried(uri, [row for row in chapters if row["kind"] == tried]):
            for name, found in answers.items():
                counts[name].append((f"{title}: {group}", found))
    rows = [_row(name, found, counts["all"]) for name, found in counts.items()]
    best = max(rows[:-1], key=lambda row: row["mean f1"])
    headline = {"best": best["rule"], "mean_f1": best["mean f1"]}
    record("thresholds", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def _trained(work: Path, chapters: Sequence[dict[str, Any]], small: bool) -> str:
    write_once(work / "chapters.jsonl", "".join(json.dumps(row) + "\n" for row in chapters))
    settings = SETTINGS | {"train.epochs": 1 if small else 3, "train.threads": 1}
    given = [part for name, value in settings.items() for part in (f"--{name}", value)]
    job("train_text_segmenter", "--documents", work / "chapters.jsonl", "--out", work / "tagger", *given)
    return str(work / "tagger")


def _tried(uri: str, chapters: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, list[list[int]]]]]:
    """For each way of a set and each book: its title, the book, and the counts of each rule for each chapter."""
    found = package.load(uri)
    task, model = config.from_dict(TextSegmentation, found.task), found.model()
    for title, change in WAYS.items():
        groups: dict[str, dict[str, list[list[int]]]] = {}
        for row in chapters:
            text, spans = join_paragraphs(row["text"], change(row["text"], row["paragraphs"]))
            truth = paragraph_starts(text, spans)
            starts = split_sentences(text)[:, 0]
            inputs = pa.Table.from_pylist([{"data": text.encode(), "format": "object", "label": None}], INPUT_SCHEMA)
            features = features_at(task.prepare(inputs), 0)
            if title == "other words":
                features = STRANGE[title](features, task.buckets)
            scores = task.scores(model, [features], torch.device("cpu"))[0]
            book = groups.setdefault(row["title"], {name: [] for name in (*RULES, "all")})
            for name, rule in RULES.items():
                begins = np.append(True, scores[1:] >= np.float32(rule(scores)))
                book[name].append(_counts(truth, starts[begins]))
            book["all"].append(_counts(truth, starts))
        for group, answers in groups.items():
            yield title, group, answers


def _counts(truth: list[int], starts: np.ndarray) -> list[int]:
    counts = count_boundaries(truth, starts.tolist())
    return [counts.hits, counts.extra, counts.missed]


def _row(
    name: str, found: Sequence[tuple[str, list[list[int]]]], trivial: Sequence[tuple[str, list[list[int]]]]
) -> dict[str, Any]:
    """The mean over books of F1, by way and of all ways, and how many are below the guess that is everything."""
    row: dict[str, Any] = {"rule": name}
    pairs = zip(found, trivial, strict=True)
    books = [(title, _padded(counts), _padded(guess)) for (title, counts), (_, guess) in pairs]
    for way in WAYS:
        values = [estimates(counts)["f1"].value for title, counts, _ in books if title.startswith(way)]
        row[way] = float(np.mean(values))
    margins = [f1_margin(counts, guess) for _, counts, guess in books]
    row["mean f1"] = float(np.mean([row[way] for way in WAYS]))
    row["books"], row["below all"] = len(books), sum(margin.high < 0 for margin in margins)
    row["least margin"] = min(margin.value for margin in margins)
    return row


def _padded(counts: list[list[int]]) -> np.ndarray:
    return np.pad(np.array(counts, np.float64), ((0, 0), (0, 4)))


def _shortened(text: str, paragraphs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The first two sentences of each paragraph."""
    spans = []
    for start, end in paragraphs:
        sentences = split_sentences(text[start:end])
        spans.append((start, start + int(sentences[min(2, len(sentences)) - 1, 1])))
    return spans


def _joined(text: str, paragraphs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Every two paragraphs as one."""
    return [(pair[0][0], pair[-1][1]) for pair in (paragraphs[at : at + 2] for at in range(0, len(paragraphs), 2))]


#: How the chapters are tried.
WAYS: dict[str, Callable[[str, Sequence[Sequence[int]]], list[tuple[int, int]]]] = {
    "as they are": lambda text, paragraphs: [(start, end) for start, end in paragraphs],
    "short paragraphs": _shortened,
    "long paragraphs": _joined,
    "other words": lambda text, paragraphs: [(start, end) for start, end in paragraphs],
}


if __name__ == "__main__":
    main()
