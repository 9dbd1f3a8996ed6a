"""Scores of single inputs: how well a package does on each image or document of labelled data.

A scorer turns a batch of inputs into one row for each, so it can run in this process or in many. What is said about
all inputs together is computed from these rows alone (`pipeline.quality.evaluation`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images import metrics as image_metrics
from pipeline.images.classification import ImageClassification
from pipeline.images.labels import LabelRules
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.inference import predictions
from pipeline.rows import ERROR_TYPE, INPUT_SCHEMA, RECORD, FailedInput, error_value, failed_input
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text import inputs as text_inputs
from pipeline.text import metrics as text_metrics
from pipeline.text.reading import read_document
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.task import TextSegmentation

_LARGEST_LABEL = 1 << 30
_KEY = pa.schema([("ordinal", pa.int64()), ("uri", pa.string()), ("member", pa.string())])
_FAILURE = pa.schema([("label", pa.string()), ("error", ERROR_TYPE)])
_CELL = pa.struct([("truth", pa.int32()), ("predicted", pa.int32()), ("pixels", pa.int64())])
_COUNTS = ("hits", "extra", "missed")


class Scorer(ABC):
    """Scores inputs one by one. Subclasses are frozen dataclasses, which can be sent to workers."""

    columns: ClassVar[pa.Schema]
    """The scores of an input; null if it failed."""

    @property
    def schema(self) -> pa.Schema:
        """Which input, its scores, the URI of its label if that is what failed, and its error."""
        return pa.schema([*_KEY, *self.columns, *_FAILURE])

    def score(self, model: nn.Module, rows: pa.Table, device: torch.device) -> pa.Table:
        """One row of `schema` for each of some inputs, in their order. ``rows`` are inputs of a listing."""
        failures: list[FailedInput] = []
        found = self.scores(model, rows, device, failures)
        failed = {(item.uri, item.member): item for item in failures}
        result = []
        for index, row in enumerate(rows.to_pylist()):
            item = failed.get((row["uri"], row["member"]))
            failure = {"label": None, "error": None}
            if item is not None:
                error = {"stage": "evaluate", "code": item.code, "message": item.message}
                failure = {"label": item.label, "error": error}
            scores = found.get(index, {}) if item is None else {}
            result.append({name: row[name] for name in _KEY.names} | scores | failure)
        return pa.Table.from_pylist(result, schema=self.schema)

    @abstractmethod
    def scores(
        self, model: nn.Module, rows: pa.Table, device: torch.device, failures: list[FailedInput]
    ) -> dict[int, dict[str, Any]]:
        """The `columns` of the inputs that have any, by their index in ``rows``. Failed inputs are added to
        ``failures``."""


@dataclass(frozen=True, kw_only=True)
class ImageScorer(Scorer):
    """Compares masks with labels, at each image's own size. Pixels without a class do not count."""

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("height", pa.int64()),
            ("width", pa.int64()),
            ("miou", pa.float64()),
            ("accuracy", pa.float64()),
            ("confidence", pa.float32()),
            ("uncertainty", pa.float32()),
            ("confusion", pa.list_(_CELL)),
        ]
    )
    task: ImageSegmentation
    rules: LabelRules
    """How to read the labels."""

    def __post_init__(self) -> None:
        self.rules.check()

    def scores(
        self, model: nn.Module, rows: pa.Table, device: torch.device, failures: list[FailedInput]
    ) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for start, batch, good, predicted in predictions(self.task, model, rows, failures, device):
            for index, row in zip(good.tolist(), predicted.to_pylist(), strict=True):
                source = batch.slice(index, 1).to_pylist()[0]
                try:
                    truth = self.truth(source["label_uri"], row["height"], row["width"])
                except InputError as reason:
                    failures.append(failed_input(source, error_value("evaluate", reason), label=True))
                    continue
                confusion = self._confusion(row, truth)
                found[start + index] = {
                    "height": row["height"],
                    "width": row["width"],
                    "miou": _finite(image_metrics.miou(confusion)),
                    "accuracy": _finite(image_metrics.global_accuracy(confusion)),
                    "confidence": row.get("confidence"),
                    "uncertainty": row.get("uncertainty"),
                    "confusion": _cells(confusion),
                }
        return found

    def truth(self, label_uri: str, height: int, width: int) -> np.ndarray:
        """The classes of a label (height, width). `InputError` if it cannot be read."""
        return self.rules.read(storage.fetch(label_uri, storage.Read(max_bytes=_LARGEST_LABEL)), height, width)

    def mask(self, predicted: dict[str, Any]) -> np.ndarray:
        """The classes (height, width) of a row that the task has predicted."""
        return self.task.masks.ids(predicted)

    def _confusion(self, predicted: dict[str, Any], truth: np.ndarray) -> torch.Tensor:
        true, mask = (torch.from_numpy(ids.astype(np.int64)) for ids in (truth, self.mask(predicted)))
        return image_metrics.confusion_matrix(true, mask, len(self.task.classes))


def confusion_of(scores: pa.Table, classes: int) -> torch.Tensor:
    """The confusion matrix (classes, classes), float64, of all images with scores of `ImageScorer` together."""
    cells = scores["confusion"].combine_chunks().flatten()
    total = torch.zeros(classes * classes, dtype=torch.float64)
    if len(cells):
        truth, predicted, pixels = (torch.from_numpy(cells.field(name).to_numpy().copy()) for name in _CELL.names)
        total.index_add_(0, truth.long() * classes + predicted.long(), pixels.double())
    return total.view(classes, classes)


@dataclass(frozen=True, kw_only=True)
class ClassificationScorer(Scorer):
    """Compares the label of an image with its class, which the listing has in its column ``label``."""

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("class", pa.string()),
            ("predicted", pa.string()),
            ("scores", pa.list_(pa.float32())),
            ("confidence", pa.float32()),
            ("uncertainty", pa.float32()),
        ]
    )
    task: ImageClassification

    def scores(
        self, model: nn.Module, rows: pa.Table, device: torch.device, failures: list[FailedInput]
    ) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for start, batch, good, predicted in predictions(self.task, model, rows, failures, device):
            for index, row in zip(good.tolist(), predicted.to_pylist(), strict=True):
                source = batch.slice(index, 1).to_pylist()[0]
                if source["label"] not in self.task.classes:
                    reason = InputError("bad_label", f"no class is named {source['label']!r}")
                    failures.append(failed_input(source, error_value("evaluate", reason)))
                    continue
                values = {name: row[name] for name in ("scores", "confidence", "uncertainty")}
                found[start + index] = {"class": source["label"], "predicted": row["label"], **values}
        return found


@dataclass(frozen=True, kw_only=True)
class ReconstructionScorer(Scorer):
    """The negative evidence lower bound at the posterior's mean, in bits for each dimension."""

    columns: ClassVar[pa.Schema] = pa.schema([("bits_per_dimension", pa.float64())])
    task: ImageReconstruction

    def scores(
        self, model: nn.Module, rows: pa.Table, device: torch.device, failures: list[FailedInput]
    ) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for start, _, good, predicted in predictions(self.task, model, rows, failures, device):
            for index, bits in zip(good.tolist(), predicted["bits_per_dimension"].to_pylist(), strict=True):
                found[start + index] = {"bits_per_dimension": bits}
        return found


OTHER_SPLIT, WITHOUT_SPLIT = "other split", "without split"


@dataclass(frozen=True, kw_only=True)
class DocumentScorer(Scorer):
    """Compares paragraphs with those of a document, which are joined by one space first, so that line breaks do not
    show them. ``left_out`` says why a document has no scores: it has another split than the wanted one, or none."""

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("document", pa.string()),
            ("group", pa.string()),
            ("left_out", pa.string()),
            ("paragraphs", pa.int64()),
            ("f1", pa.float64()),
            ("pk", pa.float64()),
            ("window_diff", pa.float64()),
            *((name, pa.int64()) for name in _COUNTS),
            *((f"trivial_{name}", pa.int64()) for name in _COUNTS),
        ]
    )
    task: TextSegmentation | SentenceReconstruction
    split: str
    """Documents whose field ``split`` has this value are scored; ``all``: every document."""
    group: str | None = None
    """Name of a field of the records, kept with the scores."""

    def scores(
        self, model: nn.Module, rows: pa.Table, device: torch.device, failures: list[FailedInput]
    ) -> dict[int, dict[str, Any]]:
        extra = ("split",) if self.group is None else ("split", self.group)
        kind = replace(self.task.inputs, record=tuple(dict.fromkeys((*self.task.inputs.record, *extra))))
        data, errors = fetch(rows, kind, FetchConfig())
        found: dict[int, dict[str, Any]] = {}
        for index, (content, error, row) in enumerate(zip(data, errors.to_pylist(), rows.to_pylist(), strict=True)):
            if content is None:
                failures.append(failed_input(row, error))
                continue
            try:
                found[index] = self._scores_of(model, content, row["format"], device)
            except InputError as reason:
                failures.append(failed_input(row, error_value("evaluate", reason)))
        return found

    def _scores_of(self, model: nn.Module, content: bytes, form: str, device: torch.device) -> dict[str, Any]:
        # A broken record may say which split it is of: it fails when it is read.
        extra = _record(content) if form == RECORD else {}
        if self.split != "all" and extra is not None and extra.get("split") != self.split:
            return {"left_out": WITHOUT_SPLIT if extra.get("split") is None else OTHER_SPLIT}
        shown = self.shown(model, content, form, device)
        starts = [start for start, _, _ in shown.paragraphs]
        score = text_metrics.score(shown.truth, starts, shown.sentences)
        counts = {name: getattr(score.counts, name) for name in _COUNTS}
        trivial = {f"trivial_{name}": getattr(score.trivial, name) for name in _COUNTS}
        return {
            "document": shown.name,
            "group": None if self.group is None else str((extra or {}).get(self.group)),
            "paragraphs": len(shown.truth),
            "f1": score.counts.f1,
            "pk": score.pk,
            "window_diff": score.window_diff,
            **counts,
            **trivial,
        }

    def shown(self, model: nn.Module, content: bytes, form: str, device: torch.device) -> ShownDocument:
        """A document with its true and its found paragraphs. `InputError` if it cannot be read."""
        read = read_document(content, form)
        text, spans = text_inputs.join_paragraphs(read.text, read.known_paragraphs())
        return ShownDocument(
            name=str(read.doc_id),
            text=text,
            truth=text_inputs.paragraph_starts(text, spans),
            paragraphs=_paragraphs(self.task, model, text, device),
            sentences=text_inputs.split_sentences(text, self.task.max_sentence_chars)[:, 0].tolist(),
        )


@dataclass(frozen=True, kw_only=True)
class ShownDocument:
    """A document with what was found in it. All numbers are offsets into the text."""

    name: str
    text: str
    truth: list[int]
    """Where its paragraphs begin."""
    paragraphs: list[tuple[int, int, float]]
    """The start, end and score of each paragraph that was found."""
    sentences: list[int]
    """Where its sentences begin."""


def counts_of(row: dict[str, Any]) -> text_metrics.Score:
    """The score of a document from its row of `DocumentScorer`."""
    counts = text_metrics.Counts(**{name: row[name] for name in _COUNTS})
    trivial = text_metrics.Counts(**{name: row[f"trivial_{name}"] for name in _COUNTS})
    return text_metrics.Score(counts=counts, trivial=trivial, pk=row["pk"], window_diff=row["window_diff"])


def _record(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _paragraphs(
    task: TextSegmentation | SentenceReconstruction, model: nn.Module, text: str, device: torch.device
) -> list[tuple[int, int, float]]:
    record = json.dumps({"text": text}).encode()
    prepared = task.prepare(pa.table({"data": [record], "format": ["json"], "label": [None]}, schema=INPUT_SCHEMA))
    error = prepared["error"][0].as_py()
    if error is not None:
        raise InputError(error["code"], error["message"])
    with torch.inference_mode():
        encoded = task.encode(task.predict(model, prepared.drop_columns(["error"]), device))
    return [(span["start"], span["end"], span["score"]) for span in encoded["paragraphs"][0].as_py()]


def _cells(confusion: torch.Tensor) -> list[dict[str, int]]:
    """The cells of a confusion matrix that are not 0."""
    places = confusion.nonzero().tolist()
    return [{"truth": row, "predicted": column, "pixels": int(confusion[row, column])} for row, column in places]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
