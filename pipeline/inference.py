"""Inference in this process, without a cluster: inputs are fetched, prepared and predicted batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline.rows import INPUT_SCHEMA, FailedInput, failed_input
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.task import Task

BATCH_ROWS = 16


def predictions(
    task: Task, model: nn.Module, rows: pa.Table, failed: list[FailedInput], device: torch.device
) -> Iterator[tuple[int, pa.Table, np.ndarray, pa.Table]]:
    """Yield for each batch: where it begins, its inputs, the indices of the inputs without an error, and the
    predictions for these."""
    model = model.eval()
    for start, batch, good, prepared in prepared_batches(task, rows, failed):
        yield start, batch, good, task.predict(model, prepared, device)


def prepared_batches(
    task: Task, rows: pa.Table, failed: list[FailedInput]
) -> Iterator[tuple[int, pa.Table, np.ndarray, pa.Table]]:
    """Yield for each batch: where it begins, its inputs, the indices of the inputs without an error, and these
    prepared."""
    for start in range(0, rows.num_rows, BATCH_ROWS):
        batch = rows.slice(start, BATCH_ROWS)
        data, errors = fetch(batch, task.inputs, FetchConfig())
        found = errors.to_pylist()
        good = np.array([index for index, error in enumerate(found) if error is None], np.int64)
        _add(failed, batch, range(batch.num_rows), found)
        inputs = {
            "data": [data[index] for index in good],
            "format": [batch["format"][int(index)].as_py() for index in good],
            "label": [None] * len(good),
        }
        prepared = task.prepare(pa.table(inputs, schema=INPUT_SCHEMA))
        found = prepared["error"].to_pylist()
        _add(failed, batch, good, found)
        keep = np.array([error is None for error in found], bool)
        good, prepared = good[keep], prepared.filter(pa.array(keep)).drop_columns(["error"])
        if len(good):
            yield start, batch, good, prepared


def _add(
    failed: list[FailedInput], batch: pa.Table, places: Iterable[int], errors: Sequence[dict[str, str] | None]
) -> None:
    for place, error in zip(places, errors, strict=True):
        if error is not None:
            failed.append(failed_input(batch.slice(int(place), 1).to_pylist()[0], error))
