"""Chooses the rule of `pipeline.text.thresholds`: how a document's threshold is found from its scores.

A small tagger with the settings of the builtin learns from the fiction of split train, for two epochs and in this
process, and is tried on the non-fiction of split train; another the other way round. So each is tried on a kind of book
that it has not seen. The builtin itself is tried on the language reference inside CPython, which is no book. Each
document is tried as it is, and made strange in three ways: with at most two sentences of each paragraph, with two
paragraphs joined to one, and with its words replaced by others (the same for the same word). val, Brown and Choi are
not read.

F1 is of all boundaries of a book, and its mean over books; ``below all`` counts the books and ways in which F1 is below
that of saying that every sentence begins a paragraph, by more than its interval. EM is prior shift by Saerens et al.
(2002). The best rule is the one with the largest mean of F1 over the four ways, of those that leave no book below that
guess. Resumable.
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
from benchmarks.measures.boundary_figures import estimates, f1_margin
from benchmarks.measures.document_sets import records
from benchmarks.record import data_folder, record
from pipeline import config, models, package
from pipeline.examples.prose import reference_documents
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.inputs import join_paragraphs, paragraph_starts, split_sentences
from pipeline.text.metrics import count_boundaries
from pipeline.text.novelty_trial import STRANGE
from pipeline.text.task import TextSegmentation
from pipeline.text.thresholds import best_threshold, offset_probabilities
from pipeline.text.windows import features_at
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

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


def _all_or_calibrated(offset_std: float, slope: float) -> Rule:
    """The threshold of the calibrated scores, or every sentence where that is expected to be better with an offset."""

    def rule(scores: np.ndarray) -> float:
        if len(scores) < 2:
            return 1.0
        threshold = best_threshold(scores, 0, 1)
        likely = np.sort(scores[1:])[::-1]
        chances, weights = offset_probabilities(likely, offset_std, slope)
        count, every = max(1, int((likely >= np.float32(threshold)).sum())), len(likely)
        sums = chances.sum(1)
        few, most = (2 * chances[:, :k].sum(1) / (k + sums) for k in (count, every))
        return float(likely[-1]) if weights @ most > weights @ few else threshold

    return rule


RULES |= {
    f"all or calibrated, {offset:g}, {slope:g}": _all_or_calibrated(offset, slope)
    for offset, slope in ((1, 0.7), (1.5, 0.7), (2, 0.7), (1, 0.5), (1.5, 0.5), (2, 1), (3, 1))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/thresholds"), help="where packages go")
    parser.add_argument("--learned", nargs="+", choices=KINDS, default=KINDS, help="kinds of books to learn from")
    parser.add_argument("--every", type=int, default=1, help="try only every so many-th chapter")
    parser.add_argument("--small", action="store_true", help="one epoch, a tenth of the chapters")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    torch.set_num_threads(1)
    work = arguments.work / "small" if arguments.small else arguments.work
    chapters = [row for row in records(data / "books" / "books.jsonl.gz") if row["split"] == "train"]
    chapters = chapters[:: 10 if arguments.small else 1]
    counts: dict[str, list[tuple[str, list[list[int]]]]] = {name: [] for name in (*RULES, "all")}
    tried = []
    for kind in arguments.learned:
        others = [row for row in chapters if row["kind"] != kind][:: arguments.every]
        tried.append((_trained(work / kind, chapters, kind), others))
    tried.append(("builtin:paragraphs-en", [item | {"title": "reference"} for item in reference_documents()]))
    for uri, documents in tried:
        for title, group, answers in _tried(uri, documents):
            for name, found in answers.items():
                counts[name].append((f"{title}: {group}", found))
    rows = [_row(name, found, counts["all"]) for name, found in counts.items()]
    fair = [row for row in rows[:-1] if row["below all"] == 0]
    best = max(fair or rows[:-1], key=lambda row: row["mean f1"])
    headline = {"best": best["rule"], "mean_f1": best["mean f1"]}
    record("thresholds", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def _trained(work: Path, chapters: Sequence[dict[str, Any]], kind: str) -> str:
    """The package of a tagger that has learned from books of one kind."""
    uri = str(work / "tagger")
    if (work / "tagger" / "config.json").exists():
        return uri
    task = TextSegmentation(buckets=SETTINGS["task.buckets"], consistency=0.0)
    lines = [
        json.dumps({name: row[name] for name in ("text", "paragraphs")}) for row in chapters if row["kind"] == kind
    ]
    rows = [{"data": line.encode(), "format": "json", "label": None} for line in lines]
    samples = task.prepare_samples(pa.Table.from_pylist(rows, INPUT_SCHEMA)).drop(["error"])
    sizes = {name.removeprefix("model."): value for name, value in SETTINGS.items() if name.startswith("model.")}
    torch.manual_seed(0)
    model = models.build("sentence_tagger", sizes)
    held = Samples([samples.slice(0, 16)])
    learned = Samples([samples.slice(16)])
    task.start(model, learned.shuffled(0, 16))
    settings = TrainConfig(epochs=2, batch_rows=16, learning_rate=2e-3, ema_decay=0.99, precision="bfloat16")
    trainer = Trainer(task, model, settings, learned, held)
    for progress in trainer.run():
        print(f"{kind}: step {progress.step} of {progress.steps}", file=sys.stderr)
    package.save(uri, model_name="sentence_tagger", model=trainer.best_model(), task=task, card={})
    return uri


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
