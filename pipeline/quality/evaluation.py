"""Evaluation of a package on labelled data. It uses the same prepare and predict as the stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.images import inputs as image_inputs
from pipeline.images import metrics as image_metrics
from pipeline.images.labels import LabelRules
from pipeline.images.outputs import overlay
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.inference import BATCH_ROWS, predictions
from pipeline.rows import INPUT_SCHEMA, FailedInput, by_code, error_value, failed_input
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text import inputs as text_inputs
from pipeline.text import metrics as text_metrics
from pipeline.text import outputs as text_outputs
from pipeline.text.task import TextSegmentation


@dataclass(kw_only=True)
class Evaluation:
    """Metrics, None where undefined; a table of details; failed inputs; what else to say; and pictures for a page."""

    metrics: dict[str, float | None]
    details: list[dict[str, Any]] = field(default_factory=list)
    failures: list[FailedInput] = field(default_factory=list)
    missing_classes: list[str] = field(default_factory=list)
    """Classes that have no pixel in the labels."""
    without_split: int = 0
    """Number of documents that were left out because they have no field ``split``."""
    pictures: list[tuple[str, np.ndarray]] = field(default_factory=list)
    markup: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, int]:
        """The number of failed inputs by error code."""
        return by_code(self.failures)


def evaluate_images(
    task: ImageSegmentation,
    model: nn.Module,
    rows: pa.Table,
    pictures: int = 6,
    rules: LabelRules | None = None,
) -> Evaluation:
    """mIoU and global accuracy from one confusion matrix at each image's own size. Pixels without a class do not count.

    The mean of mIoU is over the classes that occur in truth or prediction. ``rows`` are inputs with a ``label_uri``;
    ``rules`` say how to read the labels, None: as those that the model was trained on. `RequestError` if no pixel with
    a class was found.
    """
    rules = rules or task.label_rules
    rules.check()
    classes = len(task.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    result = Evaluation(metrics={})
    for batch, good, predicted in predictions(task, model, rows, result.failures):
        for index, row in enumerate(predicted.to_pylist()):
            size = row["height"], row["width"]
            mask = np.frombuffer(row["mask"], np.uint8 if classes <= 256 else np.uint16).reshape(size)
            source = batch.slice(int(good[index]), 1).to_pylist()[0]
            try:
                label = rules.read(storage.fetch(source["label_uri"], storage.Read(max_bytes=1 << 30)), *size)
            except InputError as reason:
                result.failures.append(failed_input(source, error_value("evaluate", reason), label=True))
                continue
            truth = torch.from_numpy(label.astype(np.int64))
            confusion += image_metrics.confusion_matrix(truth, torch.from_numpy(mask.astype(np.int64)), classes)
            if len(result.pictures) < 3 * pictures:
                result.pictures += _compared(source["uri"], task, mask, label)
    _require(bool(confusion.sum()), "pixel with a class", rows, result)
    iou = image_metrics.class_iou(confusion)
    pixels = confusion.sum(1)
    result.metrics = {
        "miou": image_metrics.miou(confusion),
        "global_accuracy": image_metrics.global_accuracy(confusion),
    }
    result.details = [
        {"class": name, "IoU": None if iou[index].isnan() else iou[index].item(), "pixels": int(pixels[index])}
        for index, name in enumerate(task.classes)
    ]
    result.missing_classes = [name for index, name in enumerate(task.classes) if not pixels[index]]
    return result


def evaluate_autoencoder(task: ImageReconstruction, model: nn.Module, rows: pa.Table, pictures: int = 6) -> Evaluation:
    """The mean negative evidence lower bound at the posterior's mean, in bits for each dimension."""
    result = Evaluation(metrics={})
    bits: list[float] = []
    for batch, good, predicted in predictions(task, model, rows, result.failures):
        bits += predicted["bits_per_dimension"].to_pylist()
        if len(result.pictures) < 2 * pictures:
            names = [batch["uri"][int(index)].as_py() for index in good[:pictures]]
            result.pictures += reconstruction_pairs(task, model, names)
    _require(bool(bits), "image", rows, result)
    result.metrics = {"bits_per_dimension": float(np.mean(bits)), "bits_standard_deviation": float(np.std(bits))}
    return result


def evaluate_documents(
    task: TextSegmentation, model: nn.Module, rows: pa.Table, *, split: str, group: str | None = None
) -> Evaluation:
    """Precision, recall and F1 of boundaries over all documents; Pk and WindowDiff as macro averages over documents.

    The paragraphs of each document are joined by one space first, so that line breaks do not show them. Only records
    whose ``split`` has the given value are used, in JSONL and in Parquet files (``all``: every document). Documents
    without a ``split`` are counted then; `RequestError` if all are. ``f1_all_boundaries`` is the F1 of a baseline
    that begins a paragraph at every sentence. A fraction of nothing is None: the precision where no boundary was found,
    for example. `RequestError` if no document has a boundary.
    """
    result = Evaluation(metrics={})
    documents: list[_Document] = []
    extra = ("split",) if group is None else ("split", group)
    kind = replace(task.inputs, record=tuple(dict.fromkeys((*task.inputs.record, *extra))))
    groups: dict[str, list[_Document]] = {}
    for start in range(0, rows.num_rows, BATCH_ROWS):
        batch = rows.slice(start, BATCH_ROWS)
        data, errors = fetch(batch, kind, FetchConfig())
        for content, error, row in zip(data, errors.to_pylist(), batch.to_pylist(), strict=True):
            if content is None:
                result.failures.append(failed_input(row, error))
                continue
            try:
                if split != "all" and not _has_split(content, row["format"]):
                    result.without_split += 1
                    continue
                document = _assess(task, model, content, row["format"], split, group)
            except InputError as reason:
                result.failures.append(failed_input(row, error_value("evaluate", reason)))
                continue
            if document is None:
                continue
            documents.append(document)
            if document.group is not None:
                groups.setdefault(document.group, []).append(document)
            if len(result.markup) < 2:
                page = text_outputs.render_html(document.text, document.paragraphs, document.truth)
                result.markup.append((f"Document {document.name}", page))
    if result.without_split == rows.num_rows:
        rule = "no document has a field 'split', so the split must be 'all'"
        raise RequestError(f"split {split!r}: {rule}; got {rows.num_rows} such as {rows['uri'][0]}")
    boundaries = sum(len(document.truth) - 1 for document in documents)
    _require(boundaries > 0, f"paragraph boundary of split {split!r}", rows, result)
    parts = [("all", documents), *groups.items()]
    result.details = [{"documents of": name, **_summary(found)} for name, found in parts]
    result.metrics = {key: value for key, value in result.details[0].items() if key != "documents of"}
    return result


@dataclass(frozen=True, kw_only=True)
class _Document:
    name: str
    group: str | None
    text: str
    paragraphs: list[tuple[int, int, float]]
    truth: list[int]
    score: text_metrics.Score


def _assess(
    task: TextSegmentation, model: nn.Module, content: bytes, form: str, split: str, group: str | None
) -> _Document | None:
    """The figures of one document. None if it belongs to another split."""
    if form == "json":
        extra = _record(content)
        if extra is not None and split not in ("all", extra.get("split")):
            return None
        parsed = text_inputs.parse_record(content)
        extra = extra or {}
    else:
        extra, parsed = {}, {"text": text_inputs.decode_text(content)[0], "paragraphs": None, "doc_id": None}
    spans = parsed["paragraphs"] or text_inputs.blank_line_paragraphs(parsed["text"])
    text, spans = text_inputs.join_paragraphs(parsed["text"], spans)
    truth = text_inputs.paragraph_starts(text, spans)
    paragraphs = _paragraphs(task, model, text)
    starts = [start for start, _, _ in paragraphs]
    sentences = text_inputs.split_sentences(text, task.max_sentence_chars)[:, 0].tolist()
    return _Document(
        name=str(parsed["doc_id"]),
        group=None if group is None else str(extra.get(group)),
        text=text,
        paragraphs=paragraphs,
        truth=truth,
        score=text_metrics.score(truth, starts, sentences),
    )


def _has_split(content: bytes, form: str) -> bool:
    """Whether a document says which split it is of. A broken record may do so: it fails when it is assessed."""
    record = _record(content) if form == "json" else {}
    return record is None or record.get("split") is not None


def _record(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _require(found: bool, what: str, rows: pa.Table, result: Evaluation) -> None:
    """`RequestError` that says what was looked for, where, and why it was not there, unless it was ``found``."""
    if found:
        return
    why = f"; failed: {result.failed}; the first: {result.failures[0]}" if result.failures else ""
    raise RequestError(f"nothing to evaluate: no {what} in {rows.num_rows} inputs such as {rows['uri'][0]}{why}")


def _paragraphs(task: TextSegmentation, model: nn.Module, text: str) -> list[tuple[int, int, float]]:
    record = json.dumps({"text": text}).encode()
    prepared = task.prepare(pa.table({"data": [record], "format": ["json"], "label": [None]}, schema=INPUT_SCHEMA))
    error = prepared["error"][0].as_py()
    if error is not None:
        raise InputError(error["code"], error["message"])
    with torch.inference_mode():
        encoded = task.encode(task.predict(model, prepared.drop_columns(["error"]), torch.device("cpu")))
    return [(span["start"], span["end"], span["score"]) for span in encoded["paragraphs"][0].as_py()]


def _summary(documents: list[_Document]) -> dict[str, float | None]:
    found = text_metrics.summarize([document.score for document in documents])
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


def _compared(uri: str, task: ImageSegmentation, mask: np.ndarray, label: np.ndarray) -> list[tuple[str, np.ndarray]]:
    image = image_inputs.decode_image(storage.read(uri), task.max_pixels)
    name = uri.rsplit("/", 1)[-1]
    return [
        (f"{name}: input", image),
        (f"{name}: mask", overlay(image, mask, task.palette)),
        (f"{name}: truth", overlay(image, label, task.palette)),
    ]
