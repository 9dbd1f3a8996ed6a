"""Evaluation of a package on labelled data: the same prepare and predict as in the stream, compared with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline import storage
from pipeline.distributed.source import FetchConfig, fetch
from pipeline.errors import InputError
from pipeline.images import inputs as image_inputs
from pipeline.images import metrics as image_metrics
from pipeline.images.outputs import overlay
from pipeline.images.task import ImageReconstruction, ImageSegmentation
from pipeline.task import INPUT_SCHEMA, Task

_BATCH_ROWS = 16


@dataclass(kw_only=True)
class Evaluation:
    """Metrics, a table of details, how many inputs failed by code, and pictures for a page."""

    metrics: dict[str, float]
    details: list[dict[str, Any]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    pictures: list[tuple[str, np.ndarray]] = field(default_factory=list)
    markup: list[tuple[str, str]] = field(default_factory=list)


def evaluate_images(task: ImageSegmentation, model: nn.Module, rows: pa.Table, pictures: int = 6) -> Evaluation:
    """mIoU and global accuracy from one confusion matrix, at each input's own size; void is left out.

    ``rows``: inputs with a ``label_uri``.
    """
    classes = len(task.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    result = Evaluation(metrics={})
    for batch, good, predicted in _predictions(task, model, rows, result.failed):
        for index, row in enumerate(predicted.to_pylist()):
            size = row["height"], row["width"]
            mask = np.frombuffer(row["mask"], np.uint8 if classes <= 256 else np.uint16).reshape(size)
            source = batch.slice(int(good[index]), 1).to_pylist()[0]
            try:
                label = image_inputs.decode_label(storage.fetch(source["label_uri"], None, 1 << 30), *size)
            except InputError as reason:
                result.failed[reason.code] += 1
                continue
            truth = torch.from_numpy(label.astype(np.int64))
            if task.ignore_index is not None:
                truth[truth == task.ignore_index] = classes
            confusion += image_metrics.confusion_matrix(truth, torch.from_numpy(mask.astype(np.int64)), classes)
            if len(result.pictures) < 3 * pictures:
                result.pictures += _compared(source["uri"], task, mask, label)
    iou = image_metrics.class_iou(confusion)
    pixels = confusion.sum(1)
    result.metrics = {
        "miou": image_metrics.miou(confusion),
        "global_accuracy": image_metrics.global_accuracy(confusion),
    }
    result.details = [
        {"class": name, "IoU": iou[index].item(), "pixels": int(pixels[index])}
        for index, name in enumerate(task.classes)
    ]
    return result


def evaluate_autoencoder(task: ImageReconstruction, model: nn.Module, rows: pa.Table, pictures: int = 6) -> Evaluation:
    """Mean negative evidence lower bound in bits for each dimension, at the posterior's mean."""
    result = Evaluation(metrics={})
    bits: list[float] = []
    for batch, good, predicted in _predictions(task, model, rows, result.failed):
        bits += predicted["novelty_raw"].to_pylist()
        if len(result.pictures) < 2 * pictures:
            names = [batch["uri"][int(index)].as_py() for index in good[:pictures]]
            result.pictures += reconstructions(task, model, names)
    result.metrics = {"bits_per_dimension": float(np.mean(bits)), "bits_standard_deviation": float(np.std(bits))}
    return result


def reconstructions(task: ImageReconstruction, model: nn.Module, uris: list[str]) -> list[tuple[str, np.ndarray]]:
    """Pairs of pictures: what the model sees, and what it makes of it."""
    found = []
    for uri in uris:
        fitted = image_inputs.decode_fitted(storage.read(uri), task.max_pixels, task.height_px, task.width_px)
        image = torch.from_numpy(fitted.pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            decoded = model.decode(model.encode(image).mean, task.height_px, task.width_px)
        again = (decoded[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255).round().astype(np.uint8)
        inside = slice(0, fitted.valid_height), slice(0, fitted.valid_width)
        name = uri.rsplit("/", 1)[-1]
        found += [(f"{name}: input", fitted.pixels[inside]), (f"{name}: reconstruction", again[inside])]
    return found


def _predictions(
    task: Task, model: nn.Module, rows: pa.Table, failed: Counter[str]
) -> Iterator[tuple[pa.Table, np.ndarray, pa.Table]]:
    """For each batch: its inputs, the places of the good ones, and what was predicted for those."""
    model = model.eval()
    for start in range(0, rows.num_rows, _BATCH_ROWS):
        batch = rows.slice(start, _BATCH_ROWS)
        data, errors = fetch(batch, FetchConfig())
        codes = [error and error["code"] for error in errors.to_pylist()]
        good = np.array([index for index, code in enumerate(codes) if code is None], np.int64)
        failed.update(code for code in codes if code is not None)
        inputs = {
            "data": [data[index] for index in good],
            "format": [batch["format"][int(index)].as_py() for index in good],
            "label": [None] * len(good),
        }
        prepared = task.prepare(pa.table(inputs, schema=INPUT_SCHEMA))
        codes = [error and error["code"] for error in prepared["error"].to_pylist()]
        failed.update(code for code in codes if code is not None)
        keep = np.array([code is None for code in codes], bool)
        good, prepared = good[keep], prepared.filter(pa.array(keep)).drop_columns(["error"])
        if len(good):
            yield batch, good, task.predict(model, prepared, torch.device("cpu"))


def _compared(uri: str, task: ImageSegmentation, mask: np.ndarray, label: np.ndarray) -> list[tuple[str, np.ndarray]]:
    image = image_inputs.decode_image(storage.read(uri), task.max_pixels)
    name = uri.rsplit("/", 1)[-1]
    return [
        (f"{name}: input", image),
        (f"{name}: mask", overlay(image, mask, task.palette)),
        (f"{name}: truth", overlay(image, label, task.palette)),
    ]
