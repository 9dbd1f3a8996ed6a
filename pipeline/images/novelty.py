"""How unlike the training data an image is, by an autoencoder that was trained on them.

A likelihood alone ranks simple foreign images as familiar (Nalisnick et al. 2019): it says how many bits an image
costs, and simple images cost few bits under any model. So the cost is compared with that under a lossless compressor,
which knows nothing of the training data (Serra et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

COLUMNS = [("novelty", pa.float32()), ("novelty_raw", pa.float32()), ("embedding", pa.list_(pa.float32()))]

# Steps of the reference: one for each tenth of a per cent.
_STEPS = 1_000


def compressed_bits(pixels: np.ndarray) -> float:
    """Size of (h, w) or (h, w, 3) uint8 pixels as a lossless WebP file, in bits for each of their values."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=0, method=0)
    return 8.0 * file.tell() / pixels.size


def reference(raw: np.ndarray) -> tuple[float, ...]:
    """Quantiles of the raw scores of held-out images of the training kind, lowest to highest."""
    assert len(raw), "a reference needs images"
    return tuple(float(value) for value in np.quantile(raw.astype(np.float64), np.linspace(0, 1, _STEPS + 1)))


def percentile(raw: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Share of held-out images whose raw score is lower, in per cent; 0 and 100 at and beyond the ends."""
    return np.interp(raw, quantiles, np.linspace(0, 100, len(quantiles)))
