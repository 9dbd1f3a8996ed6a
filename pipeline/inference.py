"""Inference in this process, without a cluster: inputs are fetched, prepared and predicted batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline.rows import INPUT_SCHEMA
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.task import Task

BATCH_ROWS = 16


def predictions(
    task: Task, model: nn.Module, rows: pa.Table, failed: Counter[str]
) -> Iterator[tuple[pa.Table, np.ndarray, pa.Table]]:
    """Yield for each batch: its inputs, the indices of the inputs without an error, and the predictions for these."""
    model = model.eval()
    for batch, good, prepared in prepared_batches(task, rows, failed):
        yield batch, good, task.predict(model, prepared, torch.device("cpu"))


def prepared_batches(
    task: Task, rows: pa.Table, failed: Counter[str]
) -> Iterator[tuple[pa.Table, np.ndarray, pa.Table]]:
    """Yield for each batch: its inputs, the indices of the inputs without an error, and these prepared."""
    for start in range(0, rows.num_rows, BATCH_ROWS):
        batch = rows.slice(start, BATCH_ROWS)
        data, errors = fetch(batch, task.inputs, FetchConfig())
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
            yield batch, good, prepared
