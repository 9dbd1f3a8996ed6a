"""MNIST as arrays, for benchmarks: the four IDX files of LeCun et al. 1998 under ``PARQUETRY_DATA/mnist``."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np

_STEMS = {"train": "train", "test": "t10k"}
#: The last images of the training set are held out wherever something is chosen.
HELD_OUT = 10_000


def load(folder: Path, split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8, white on black, and labels (n,) int64 of the official split."""
    images = _idx(folder / f"{_STEMS[split]}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _idx(folder / f"{_STEMS[split]}-labels-idx1-ubyte.gz", header=8).astype(np.int64)
    assert len(images) == len(labels), (len(images), len(labels))
    return images, labels


def _idx(file: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)
