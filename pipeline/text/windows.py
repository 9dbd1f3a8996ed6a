"""Windows of a document's features, as rows of a table and as padded tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from pipeline.text.features import DENSE_FEATURES, FRAME_FEATURES, SentenceFeatures
from pipeline.text.subword_windows import padded_sentences
from pipeline.training.losses import Batch

#: Columns that store `SentenceFeatures`: one document or window in each row.
FEATURE_FIELDS = {
    "content": pa.large_list(pa.int32()),
    "counts": pa.large_list(pa.int32()),
    "frame": pa.large_list(pa.int32()),
    "dense": pa.large_list(pa.float32()),
}
#: Columns with the subwords of `SentenceFeatures`, for models that read them.
SUBWORD_FIELDS = {
    "subwords": pa.large_list(pa.int32()),
    "subword_counts": pa.large_list(pa.int32()),
}


def feature_columns(features: SentenceFeatures) -> dict[str, np.ndarray]:
    found = {
        "content": features.content,
        "counts": features.counts,
        "frame": features.frame.reshape(-1),
        "dense": features.dense.reshape(-1),
    }
    if features.subwords is None or features.subword_counts is None:
        return found
    return found | {"subwords": features.subwords, "subword_counts": features.subword_counts}


def features_at(table: pa.Table, row: int) -> SentenceFeatures:
    """The inverse of `feature_columns`; the arrays are not copied."""
    content, counts, frame, dense = (values_at(table, name, row) for name in FEATURE_FIELDS)
    shaped = (content, counts, frame.reshape(-1, FRAME_FEATURES), dense.reshape(-1, DENSE_FEATURES))
    has_subwords = SUBWORD_FIELDS.keys() <= set(table.column_names)
    return SentenceFeatures(*shaped, *(values_at(table, name, row) for name in SUBWORD_FIELDS if has_subwords))


def word_ends(features: SentenceFeatures) -> np.ndarray:
    """Where the words of each sentence end, after a 0: int64 (s + 1,)."""
    return np.append(0, np.cumsum(features.counts, dtype=np.int64))


def cut(features: SentenceFeatures, ends: np.ndarray, start: int, end: int) -> SentenceFeatures:
    """The features of the sentences [start, end). ``ends`` as `word_ends` returns them."""
    begin, stop = int(ends[start]), int(ends[end])
    here = slice(start, end)
    kept = (features.content[begin:stop], features.counts[here], features.frame[here], features.dense[here])
    if features.subwords is None or features.subword_counts is None:
        return SentenceFeatures(*kept)
    first = int(features.subword_counts[:start].sum())
    counts = features.subword_counts[here]
    return SentenceFeatures(*kept, features.subwords[first : first + int(counts.sum())], counts)


def repeated(features: SentenceFeatures, places: np.ndarray) -> SentenceFeatures:
    """The sentences at some places, in their order; a place may occur several times."""
    content, counts = _picked(features.content, features.counts, places)
    kept = (content, counts, features.frame[places], features.dense[places])
    if features.subwords is None or features.subword_counts is None:
        return SentenceFeatures(*kept)
    return SentenceFeatures(*kept, *_picked(features.subwords, features.subword_counts, places))


def _picked(values: np.ndarray, counts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pieces = np.split(values, np.cumsum(counts)[:-1])
    return np.concatenate([pieces[place] for place in places.tolist()]), counts[places]


def padded(windows: Sequence[SentenceFeatures]) -> Batch:
    """Windows as tensors of one batch, padded with zeros to the longest window; with ``subwords`` (b, s, t) and
    ``subword_counts`` (b, s) if the windows have them."""
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
    tensors["lengths"] = torch.tensor([len(window.counts) for window in windows])
    read = [(found.subwords, found.subword_counts) for found in windows]
    sentences = [(ids, counts, counts) for ids, counts in read if ids is not None and counts is not None]
    if len(sentences) < rows:
        return tensors
    found = padded_sentences(sentences)
    return tensors | {"subwords": found["ids"], "subword_counts": found["lengths"]}


def values_at(table: pa.Table, name: str, row: int) -> np.ndarray:
    return table[name][row].values.to_numpy(zero_copy_only=False)
