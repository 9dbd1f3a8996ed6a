"""Sentences as subwords: columns of a table, and padded tensors of a batch."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.text.subwords import Subwords
from pipeline.training.losses import Batch

#: Columns with the sentences of a document or a window: their ``ids``, concatenated, the ``lengths`` of the sentences,
#: and how many ``words`` begin in each.
TOKEN_FIELDS = {
    "ids": pa.large_list(pa.int32()),
    "lengths": pa.large_list(pa.int32()),
    "words": pa.large_list(pa.int32()),
}


@functools.lru_cache(maxsize=4)
def subwords_of(vocabulary: tuple[str, ...]) -> Subwords:
    """The subwords with these pieces, which are made once in a process."""
    return Subwords(vocabulary)


def sentence_subwords(text: str, sentences: np.ndarray, subwords: Subwords, most: int) -> dict[str, np.ndarray]:
    """The columns `TOKEN_FIELDS` of the ``sentences`` (s, 2) of a text, of each of which ``most`` subwords are read."""
    found = [subwords.encode(text[start:end], most) for start, end in sentences.tolist()]
    return {
        "ids": np.fromiter((token for ids, _ in found for token in ids), np.int32),
        "lengths": np.array([len(ids) for ids, _ in found], np.int32),
        "words": np.array([words for _, words in found], np.int32),
    }


def padded_sentences(windows: list[tuple[np.ndarray, ...]]) -> Batch:
    """Windows of (ids, lengths, words) as tensors, padded with zeros."""
    rows, sentences = len(windows), max(len(lengths) for _, lengths, _ in windows)
    longest = max(1, max(int(lengths.max(initial=0)) for _, lengths, _ in windows))
    ids = np.zeros((rows, sentences, longest), np.int64)
    counts = np.zeros((2, rows, sentences), np.int64)
    for row, (flat, lengths, words) in enumerate(windows):
        inside = np.arange(longest) < lengths[:, None]
        ids[row, : len(lengths)][inside] = flat
        counts[0, row, : len(lengths)], counts[1, row, : len(lengths)] = lengths, words
    arrays = {"ids": ids, "lengths": counts[0], "words": counts[1]}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def joined_windows(parts: list[tuple[np.ndarray, ...]]) -> Batch:
    """One document of several windows, without the axis of the batch."""
    ids, lengths, words = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {name: tensor[0] for name, tensor in padded_sentences([(ids, lengths, words)]).items()}


def flat(batch: Batch) -> Batch:
    """The sentences of all windows, (b * s, ...)."""
    return {name: tensor.flatten(0, 1) for name, tensor in batch.items()}


def cut_sentences(sentences: Batch, group: Tensor) -> Batch:
    """Some sentences, without the padding behind the longest of them."""
    longest = int(sentences["lengths"][group].max())
    found = {name: tensor[group] for name, tensor in sentences.items()}
    return {name: tensor[:, :longest] if tensor.ndim > 1 else tensor for name, tensor in found.items()}
