"""Evaluation of a package on labelled data: metrics over all inputs, and what people look at, from the scores of each
input. It uses the same prepare and predict as the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.images import classification
from pipeline.images import inputs as image_inputs
from pipeline.images import metrics as image_metrics
from pipeline.images.classification import ImageClassification
from pipeline.images.outputs import overlay
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.inference import BATCH_ROWS, predictions
from pipeline.quality.pages import Card
from pipeline.quality.pictures import beside
from pipeline.quality.scoring import (
    WITHOUT_SPLIT,
    ClassificationScorer,
    DocumentScorer,
    ImageScorer,
    ReconstructionScorer,
    Scorer,
    confusion_of,
    counts_of,
)
from pipeline.rows import FailedInput, by_code
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text import metrics as text_metrics
from pipeline.text import outputs as text_outputs

_CPU = torch.device("cpu")
_DOCUMENT_CHARS = 6_000  # of each document that is shown
_SHOWN_DOCUMENTS = 2
_WRONG, _RIGHT = np.array([200, 30, 40], np.uint8), np.array([225, 228, 232], np.uint8)


@dataclass(kw_only=True)
class Evaluation:
    """Metrics, None where undefined; a table of details; failed inputs; what else to say; and pictures for a page."""

    metrics: dict[str, float | None]
    scores: pa.Table
    """A row for each input, as its `Scorer` says."""
    details: list[dict[str, Any]] = field(default_factory=list)
    confusion: list[dict[str, Any]] = field(default_factory=list)
    """For each true class, the fraction of its pixels that each class got."""
    failures: list[FailedInput] = field(default_factory=list)
    missing_classes: list[str] = field(default_factory=list)
    """Classes that have no pixel in the labels."""
    without_split: int = 0
    """Number of documents that were left out because they have no field ``split``."""
    cards: list[Card] = field(default_factory=list)
    """Pictures of the inputs with the worst scores."""
    markup: list[tuple[str, str]] = field(default_factory=list)
    """The beginnings of the documents with the worst scores, as `pipeline.text.outputs.render_html` shows them, each
    with a heading."""

    @property
    def failed(self) -> dict[str, int]:
        """The number of failed inputs by error code."""
        return by_code(self.failures)


def evaluate(scorer: Scorer, model: nn.Module, rows: pa.Table, pictures: int = 6) -> Evaluation:
    """Evaluate a model on labelled inputs in this process. `RequestError` if nothing in them can be evaluated."""
    found = summarize(scorer, score(scorer, model, rows))
    illustrate(found, scorer, model, rows, pictures)
    return found


def score(
    scorer: Scorer, model: nn.Module, rows: pa.Table, progress: Callable[[int], None] = lambda _: None
) -> pa.Table:
    """The scores of all inputs, in this process. ``progress`` is called with the number of inputs so far."""
    found = []
    for start in range(0, rows.num_rows, BATCH_ROWS):
        found.append(scorer.score(model, rows.slice(start, BATCH_ROWS), _CPU))
        progress(min(start + BATCH_ROWS, rows.num_rows))
    return pa.concat_tables(found)


def summarize(scorer: Scorer, scores: pa.Table) -> Evaluation:
    """The metrics of all inputs, from their scores. `RequestError` if nothing could be evaluated."""
    result = Evaluation(metrics={}, scores=scores, failures=_failures(scores))
    if isinstance(scorer, ImageScorer):
        _summarize_images(scorer, scores, result)
    elif isinstance(scorer, ClassificationScorer):
        _summarize_labels(scorer.task, scores, result)
    elif isinstance(scorer, ReconstructionScorer):
        _summarize_reconstructions(scores, result)
    elif isinstance(scorer, DocumentScorer):
        _summarize_documents(scorer, scores, result)
    return result


def illustrate(found: Evaluation, scorer: Scorer, model: nn.Module, rows: pa.Table, pictures: int = 6) -> None:
    """Add pictures of the inputs with the worst scores, the worst first."""
    if isinstance(scorer, ImageScorer):
        for row in _chosen(rows, _ordered(found.scores, "miou", "ascending")[:pictures]):
            found.cards += _compared(scorer, model, row)
    elif isinstance(scorer, ClassificationScorer):
        wrong = found.scores.filter(pc.field("class") != pc.field("predicted"))
        for row in _chosen(rows, _ordered(wrong, "confidence", "descending")[:pictures]):
            found.cards += _mistaken(scorer.task, found.scores, row)
    elif isinstance(scorer, ReconstructionScorer):
        worst = _chosen(rows, _ordered(found.scores, "bits_per_dimension", "descending")[:pictures])
        pairs = reconstruction_pairs(scorer.task, model, [row["uri"][0].as_py() for row in worst])
        for (name, image), (_, again) in zip(pairs[::2], pairs[1::2], strict=True):
            found.cards.append(beside(name.removesuffix(": input"), [("input", image), ("reconstruction", again)]))
    elif isinstance(scorer, DocumentScorer):
        for row in _chosen(rows, _ordered(found.scores, "f1", "ascending")[:_SHOWN_DOCUMENTS]):
            data, _ = fetch(row, scorer.task.inputs, FetchConfig())
            if data[0] is not None:
                shown = scorer.shown(model, data[0], row["format"][0].as_py(), _CPU)
                spans = text_outputs.beginning(shown.paragraphs, _DOCUMENT_CHARS)
                page = text_outputs.render_html(shown.text, spans, shown.truth)
                found.markup.append((f"Document {shown.name}", page))


def _summarize_images(scorer: ImageScorer, scores: pa.Table, result: Evaluation) -> None:
    """mIoU and global accuracy from one confusion matrix. The mean of mIoU is over the classes that occur in truth or
    prediction."""
    classes = scorer.task.classes
    confusion = confusion_of(scores, len(classes))
    _require(bool(confusion.sum()), "pixel with a class", result)
    iou, hits = image_metrics.class_iou(confusion), confusion.diagonal()
    true, predicted = confusion.sum(1), confusion.sum(0)
    result.metrics = {
        "miou": image_metrics.miou(confusion),
        "global_accuracy": image_metrics.global_accuracy(confusion),
    }
    result.details = [
        {
            "class": name,
            "IoU": _ratio(iou[index].item(), 1),
            "precision": _ratio(hits[index].item(), predicted[index].item()),
            "recall": _ratio(hits[index].item(), true[index].item()),
            "pixels": int(true[index]),
        }
        for index, name in enumerate(classes)
    ]
    fractions = (confusion / confusion.sum(1, keepdim=True)).tolist()
    result.confusion = [
        {"true class": name} | dict(zip(classes, (_ratio(part, 1) for part in row), strict=True))
        for name, row in zip(classes, fractions, strict=True)
    ]
    result.missing_classes = [name for index, name in enumerate(classes) if not true[index]]


def _summarize_labels(task: ImageClassification, scores: pa.Table, result: Evaluation) -> None:
    """Accuracy, calibration error and negative log likelihood over all images, and what each class got."""
    known = scores.filter(scores["class"].is_valid())
    _require(known.num_rows > 0, "image with a class", result)
    numbers = {name: number for number, name in enumerate(task.classes)}
    label, predicted = (
        torch.tensor([numbers[name] for name in known[column].to_pylist()]) for column in ("class", "predicted")
    )
    probability = torch.tensor(known["scores"].to_pylist(), dtype=torch.float64)
    confusion = classification.class_confusion(label, predicted, len(task.classes))
    mine = probability.gather(1, label[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
    hits, true, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    result.metrics = {
        "accuracy": float(hits.sum() / confusion.sum()),
        "calibration_error": classification.calibration_error(classification.calibration_bins(probability, label)),
        "nll": float(-mine.log().mean()),
    }
    result.details = [
        {
            "class": name,
            "accuracy": _ratio(hits[index].item(), true[index].item()),
            "precision": _ratio(hits[index].item(), found[index].item()),
            "images": int(true[index]),
        }
        for index, name in enumerate(task.classes)
    ]
    fractions = (confusion / confusion.sum(1, keepdim=True)).tolist()
    result.confusion = [
        {"true class": name} | dict(zip(task.classes, (_ratio(part, 1) for part in row), strict=True))
        for name, row in zip(task.classes, fractions, strict=True)
    ]
    result.missing_classes = [name for index, name in enumerate(task.classes) if not true[index]]


def _mistaken(task: ImageClassification, scores: pa.Table, row: pa.Table) -> list[Card]:
    """The picture of an image whose label is wrong. Nothing if the file is gone."""
    (found,) = scores.filter(pc.field("ordinal") == row["ordinal"][0]).to_pylist()
    try:
        image = image_inputs.decode_image(storage.read(found["uri"]), task.max_pixels)
    except (OSError, ValueError, InputError):
        return []
    said = f"{found['predicted']}, with {found['confidence']:.0%}; it is {found['class']}"
    return [beside(found["uri"].rsplit("/", 1)[-1], [("image", image)], [said])]


def _summarize_reconstructions(scores: pa.Table, result: Evaluation) -> None:
    bits = scores["bits_per_dimension"].drop_null().to_numpy()
    _require(len(bits) > 0, "image", result)
    result.metrics = {"bits_per_dimension": float(np.mean(bits)), "bits_standard_deviation": float(np.std(bits))}


def _summarize_documents(scorer: DocumentScorer, scores: pa.Table, result: Evaluation) -> None:
    """Precision, recall and F1 of boundaries over all documents; Pk and WindowDiff as macro averages over documents.

    ``f1_all_boundaries`` is the F1 of a baseline that begins a paragraph at every sentence. A fraction of nothing is
    None: the precision where no boundary was found, for example.
    """
    rows = scores.select(scorer.columns.names).to_pylist()
    result.without_split = sum(row["left_out"] == WITHOUT_SPLIT for row in rows)
    if result.without_split == len(rows):
        rule = "no document has a field 'split', so the split must be 'all'"
        raise RequestError(f"split {scorer.split!r}: {rule}; got {len(rows)} such as {scores['uri'][0]}")
    documents = [row for row in rows if row["hits"] is not None]
    boundaries = sum(row["paragraphs"] - 1 for row in documents)
    _require(boundaries > 0, f"paragraph boundary of split {scorer.split!r}", result)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in documents:
        if row["group"] is not None:
            groups.setdefault(row["group"], []).append(row)
    parts = [("all", documents), *groups.items()]
    result.details = [{"documents of": name, **_summary(found)} for name, found in parts]
    result.metrics = {key: value for key, value in result.details[0].items() if key != "documents of"}


def _summary(documents: list[dict[str, Any]]) -> dict[str, float | None]:
    found = text_metrics.summarize([counts_of(row) for row in documents])
    hits, extra, missed = found.counts.hits, found.counts.extra, found.counts.missed
    return {
        "documents": float(found.documents),
        "f1": found.counts.f1 if hits + extra + missed else None,
        "precision": found.counts.precision if hits + extra else None,
        "recall": found.counts.recall if hits + missed else None,
        "f1_all_boundaries": found.trivial.f1,
        "pk": found.pk,
        "window_diff": found.window_diff,
    }


def _failures(scores: pa.Table) -> list[FailedInput]:
    failed = scores.filter(scores["error"].is_valid()).select(["uri", "member", "label", "error"])
    return [
        FailedInput(
            uri=row["uri"],
            member=row["member"],
            label=row["label"],
            code=row["error"]["code"],
            message=row["error"]["message"],
        )
        for row in failed.to_pylist()
    ]


def _require(found: bool, what: str, result: Evaluation) -> None:
    """`RequestError` that says what was looked for, where, and why it was not there, unless it was ``found``."""
    if found:
        return
    scores = result.scores
    why = f"; failed: {result.failed}; the first: {result.failures[0]}" if result.failures else ""
    raise RequestError(f"nothing to evaluate: no {what} in {scores.num_rows} inputs such as {scores['uri'][0]}{why}")


def _ordered(scores: pa.Table, by: str, order: str) -> list[int]:
    """The ordinals of the inputs that have a score, by it."""
    known = scores.filter(scores[by].is_valid())
    return known.sort_by([(by, order), ("ordinal", "ascending")])["ordinal"].to_pylist()


def _chosen(rows: pa.Table, ordinals: Iterable[int]) -> Iterator[pa.Table]:
    places = {ordinal: place for place, ordinal in enumerate(rows["ordinal"].to_pylist())}
    for ordinal in ordinals:
        yield rows.slice(places[ordinal], 1)


def _compared(scorer: ImageScorer, model: nn.Module, row: pa.Table) -> list[Card]:
    """The truth of an image beside its mask, and the image beside its wrong pixels. Nothing if the file is gone."""
    try:
        (found,) = [
            item
            for _, _, _, predicted in predictions(scorer.task, model, row, [], _CPU)
            for item in predicted.to_pylist()
        ]
        mask = scorer.mask(found)
        label = scorer.truth(row["label_uri"][0].as_py(), *mask.shape)
        image = image_inputs.decode_image(storage.read(row["uri"][0].as_py()), scorer.task.max_pixels)
    except (OSError, ValueError, InputError):
        return []
    palette = scorer.task.palette
    known = label < len(scorer.task.classes)
    errors = np.where(((mask != label) & known)[..., None], _WRONG, _RIGHT)
    name = row["uri"][0].as_py().rsplit("/", 1)[-1]
    share = f"{((mask != label) & known).sum() / max(1, known.sum()):.1%} of the pixels are wrong"
    pair = [("truth", overlay(image, label, palette)), ("prediction", overlay(image, mask, palette))]
    return [
        beside(name, pair, [share]),
        beside(
            f"{name}: errors", [("image", image), ("wrong pixels", errors)], ["red: wrong, grey: right or unlabelled"]
        ),
    ]


def reconstruction_pairs(task: ImageReconstruction, model: Any, uris: list[str]) -> list[tuple[str, np.ndarray]]:
    """Pairs of pictures with captions: the model's input and its reconstruction."""
    found = []
    for uri in uris:
        fitted = image_inputs.decode_fitted(storage.read(uri), task.max_pixels, task.height_px, task.width_px)
        image = torch.from_numpy(fitted.pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            decoded = model.reconstruct(task.seen(image))
        again = (decoded[0].expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        inside = slice(0, fitted.valid_height), slice(0, fitted.valid_width)
        name = uri.rsplit("/", 1)[-1]
        found += [(f"{name}: input", fitted.pixels[inside]), (f"{name}: reconstruction", again[inside])]
    return found


def _ratio(part: float, whole: float) -> float | None:
    """None for a fraction of nothing."""
    return part / whole if whole and np.isfinite(part) else None
