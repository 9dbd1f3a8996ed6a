"""Windows of a document's features, as rows of a table and as padded tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from pipeline.text.features import DENSE_FEATURES, FRAME_FEATURES, SentenceFeatures
from pipeline.training.losses import Batch

#: Columns that store `SentenceFeatures`: one document or window in each row.
FEATURE_FIELDS = {
    "content": pa.large_list(pa.int32()),
    "counts": pa.large_list(pa.int32()),
    "frame": pa.large_list(pa.int32()),
    "dense": pa.large_list(pa.float32()),
}


def feature_columns(features: SentenceFeatures) -> dict[str, np.ndarray]:
    return {
        "content": features.content,
        "counts": features.counts,
        "frame": features.frame.reshape(-1),
        "dense": features.dense.reshape(-1),
    }


def features_at(table: pa.Table, row: int) -> SentenceFeatures:
    """The inverse of `feature_columns`; the arrays are not copied."""
    content, counts, frame, dense = (values_at(table, name, row) for name in FEATURE_FIELDS)
    return SentenceFeatures(content, counts, frame.reshape(-1, FRAME_FEATURES), dense.reshape(-1, DENSE_FEATURES))


def word_ends(features: SentenceFeatures) -> np.ndarray:
    """Where the words of each sentence end, after a 0: int64 (s + 1,)."""
    return np.append(0, np.cumsum(features.counts, dtype=np.int64))


def cut(features: SentenceFeatures, ends: np.ndarray, start: int, end: int) -> SentenceFeatures:
    """The features of the sentences [start, end). ``ends`` as `word_ends` returns them."""
    begin, stop = int(ends[start]), int(ends[end])
    return SentenceFeatures(
        features.content[begin:stop], features.counts[start:end], features.frame[start:end], features.dense[start:end]
    )


def padded(windows: Sequence[SentenceFeatures]) -> Batch:
    """Windows as tensors of one batch, padded with zeros to the longest window."""
    rows, sentences = len(windows), max(len(window.counts) for window in windows)
    batch = {
        "content": np.zeros((rows, max(len(window.content) for window in windows)), np.int32),
        "counts": np.zeros((rows, sentences), np.int32),
        "frame": np.zeros((rows, sentences, FRAME_FEATURES), np.int32),
        "dense": np.zeros((rows, sentences, DENSE_FEATURES), np.float32),
    }
    for row, window in enumerate(windows):
        for name, array in batch.items():
            values = getattr(window, name)
            array[row, : len(values)] = values
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    return tensors | {"lengths": torch.tensor([len(window.counts) for window in windows])}


def values_at(table: pa.Table, name: str, row: int) -> np.ndarray:
    return table[name][row].values.to_numpy(zero_copy_only=False)
