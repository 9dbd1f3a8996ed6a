"""How unlike the training data an image is, by an autoencoder that was trained on them.

A likelihood alone ranks simple foreign images as familiar (Nalisnick et al. 2019): it says how many bits an image
costs, and simple images cost few bits under any model. So the cost is compared with that under a lossless compressor,
which knows nothing of the training data (Serra et al. 2020). They subtract one from the other. Here the compressor's
bits weigh as much as they tell of the autoencoder's among held-out images: an autoencoder's bits depend on its
likelihood, and grow less than a compressor's with what an image shows. A handful of images tells nothing of that, and
the bits are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import check

COLUMNS = [("novelty", pa.float32()), ("novelty_raw", pa.float32()), ("embedding", pa.list_(pa.float32()))]

# Steps of the reference: one for each tenth of a per cent.
_STEPS = 1_000
# Images below which a slope among them is chance.
_FEW = 30


def compressed_bits(pixels: np.ndarray) -> float:
    """Size of (h, w) or (h, w, 3) uint8 pixels as a lossless WebP file, in bits for each of their values."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=0, method=0)
    return 8.0 * file.tell() / pixels.size


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What held-out images of the training kind cost, to compare others with."""

    complexity_weight: float
    """Bits that the autoencoder needs more for each bit that the compressor needs more."""
    quantiles: tuple[float, ...]
    """Of the raw scores, lowest to highest."""

    def __post_init__(self) -> None:
        check(self, "complexity_weight", 0 <= self.complexity_weight <= 1, "be between 0 and 1")
        ok = len(self.quantiles) > 1 and list(self.quantiles) == sorted(self.quantiles)
        check(self, "quantiles", ok, "be at least 2 values, lowest first")

    def raw(self, bits: np.ndarray, compressed: np.ndarray) -> np.ndarray:
        """Bits for each value beyond what the image's complexity explains, but for a constant."""
        return bits - self.complexity_weight * compressed

    def percentile(self, raw: np.ndarray) -> np.ndarray:
        """Share of held-out images whose raw score is lower, in per cent; 0 and 100 at and beyond the ends."""
        return np.interp(raw, self.quantiles, np.linspace(0, 100, len(self.quantiles)))


def reference(bits: np.ndarray, compressed: np.ndarray) -> Reference:
    """From the bits of held-out images under the autoencoder and under the compressor: (n,) each.

    Complexity weighs nothing with fewer than 30 images.
    """
    assert len(bits) == len(compressed) > 0, "a reference needs images"
    bits, compressed = bits.astype(np.float64), compressed.astype(np.float64)
    spread = compressed - compressed.mean()
    variance = float(spread @ spread)
    slope = float(spread @ bits) / variance if variance > 0 and len(bits) >= _FEW else 0.0
    weight = min(1.0, max(0.0, slope))
    quantiles = np.quantile(bits - weight * compressed, np.linspace(0, 1, _STEPS + 1))
    return Reference(complexity_weight=weight, quantiles=tuple(np.maximum.accumulate(quantiles).tolist()))
