"""Novelty of an image: how unlike the training data it is, by an autoencoder that was trained on them.

The autoencoder gives the size of an image in bits. This alone ranks simple images of any kind as familiar (Nalisnick et
al. 2019), since they take few bits under any model. So the bits are compared with the size under a lossless compressor,
which knows nothing of the training data (Serra et al. 2020). That paper subtracts the compressed size. Here it is first
multiplied by the slope of a regression of the autoencoder's bits on it, fitted on held-out images. The reason: how fast
an autoencoder's bits grow with the complexity of an image depends on its likelihood, and they grow more slowly than a
compressor's. With fewer than 30 held-out images no slope can be fitted, and the compressed size is not subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import added, check

COLUMNS = [("novelty", pa.float32()), ("novelty_raw", pa.float32()), ("embedding", pa.list_(pa.float32()))]

#: With fewer held-out images, a percentile would be chance.
LEAST_IMAGES = 100
# Steps between the quantiles of the reference: 0.1 per cent each.
_STEPS = 1_000
# With fewer images, a fitted slope would be chance.
_FEW = 30


def compressed_bits(pixels: np.ndarray) -> float:
    """Size of pixels (h, w) or (h, w, 3), uint8, as a lossless WebP file, in bits for each value."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=0, method=0)
    return 8.0 * file.tell() / pixels.size


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of held-out images of the training data, with which other images are compared."""

    complexity_weight: float
    """Slope of a regression of the autoencoder's bits on the compressor's bits."""
    quantiles: tuple[float, ...]
    """Quantiles of the raw scores of held-out images, lowest to highest, at equal steps of probability."""
    images: int | None = added(None)
    """Number of held-out images; null: unknown, since an earlier version made the reference."""

    def __post_init__(self) -> None:
        check(self, "complexity_weight", 0 <= self.complexity_weight <= 1, "be between 0 and 1")
        ok = len(self.quantiles) > 1 and list(self.quantiles) == sorted(self.quantiles)
        check(self, "quantiles", ok, "be at least 2 values, lowest first")

    def raw(self, bits: np.ndarray, compressed: np.ndarray) -> np.ndarray:
        """The raw novelty score, up to a constant: bits per value minus the bits that the compressed size predicts."""
        return bits - self.complexity_weight * compressed

    @property
    def remark(self) -> str | None:
        """Why there are no percentiles; None if there are."""
        if self.images is None or self.images >= LEAST_IMAGES:
            return None
        return f"null: there were {self.images} held-out images, and at least {LEAST_IMAGES} are needed"

    def percentile(self, raw: np.ndarray) -> np.ndarray:
        """Percentage of held-out images whose raw score is lower; 0 below their lowest and 100 above their highest."""
        return np.interp(raw, self.quantiles, np.linspace(0, 100, len(self.quantiles)))


def scores(reference: Reference | None, bits: np.ndarray, compressed: np.ndarray) -> dict[str, pa.Array]:
    """The columns ``novelty`` and ``novelty_raw`` of images with these bits, (n,) each; null if nothing tells them."""
    raw = None if reference is None else reference.raw(bits, compressed)
    ranks = None if reference is None or raw is None or reference.remark else reference.percentile(raw)
    found = {"novelty": ranks, "novelty_raw": raw}
    return {
        name: pa.nulls(len(bits), pa.float32()) if values is None else pa.array(values, pa.float32())
        for name, values in found.items()
    }


def remarks(reference: Reference | None) -> dict[str, str]:
    """`Task.remarks` of a task with this reference."""
    return {"novelty": reference.remark} if reference is not None and reference.remark else {}


def reference(bits: np.ndarray, compressed: np.ndarray) -> Reference:
    """Fit a reference to the bits of held-out images under the autoencoder and under the compressor, (n,) each.

    With fewer than 30 images the compressed size gets the weight 0.
    """
    assert len(bits) == len(compressed) > 0, "a reference needs images"
    bits, compressed = bits.astype(np.float64), compressed.astype(np.float64)
    spread = compressed - compressed.mean()
    variance = float(spread @ spread)
    slope = float(spread @ bits) / variance if variance > 0 and len(bits) >= _FEW else 0.0
    weight = min(1.0, max(0.0, slope))
    quantiles = np.quantile(bits - weight * compressed, np.linspace(0, 1, _STEPS + 1))
    ranks = tuple(np.maximum.accumulate(quantiles).tolist())
    return Reference(complexity_weight=weight, quantiles=ranks, images=len(bits))
