"""How sharp images are: one number for each, whose mean over samples is set against the mean over real images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measures.evaluating import Rows, slices, unit_images
from pipeline.errors import RequestError

#: Cycles per pixel from which power counts as high: half of the highest that pixels can show.
CUTOFF = 0.25
_NYQUIST = 0.5
_ROWS = 500
_LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def high_frequency_power(images: Rows, cutoff: float = CUTOFF) -> Float[np.ndarray, " n"]:
    """Each image's power spectrum, averaged over directions, from ``cutoff`` to 0.5 cycles per pixel.

    The image less its mean, under a Hann window, so that opposite borders that do not match are no sharp edge. Power is
    averaged first within rings as wide as the lowest frequency of the shorter side, then over rings, so that the many
    numbers of an outer ring have no more weight than the few of an inner one; mean over channels.
    """
    if not 0 < cutoff < _NYQUIST:
        raise RequestError(f"cutoff must be in (0, {_NYQUIST}), got {cutoff}")
    found = unit_images(images)
    height, width = found.shape[2:]
    window = torch.hann_window(height, periodic=False).outer(torch.hann_window(width, periodic=False))
    rings = _rings(height, width, cutoff)
    powers = []
    for part in slices(len(found), _ROWS):
        spectrum = torch.fft.fft2((found[part] - found[part].mean((2, 3), keepdim=True)) * window).abs().square()
        powers.append(spectrum.mean(1).flatten(1).double() @ rings)
    return torch.cat(powers).numpy()


def laplacian_variance(images: Rows) -> Float[np.ndarray, " n"]:
    """The variance over each image of its discrete Laplacian (Pech-Pacheco et al. 2000), borders left out."""
    found, kernel = unit_images(images), torch.tensor(_LAPLACE)[None, None]
    if min(found.shape[2:]) < 3:
        raise RequestError(f"images must be at least 3 x 3 for a Laplacian, got {tuple(found.shape[2:])}")
    variances = []
    for part in slices(len(found), _ROWS):
        edges = F.conv2d(found[part].flatten(0, 1).unsqueeze(1), kernel)
        variances.append(edges.view(part.stop - part.start, -1).double().var(1, correction=0))
    return torch.cat(variances).numpy()


def _rings(height: int, width: int, cutoff: float) -> Float[Tensor, " hw"]:
    """The weight of each frequency in the mean over rings of the mean over a ring."""
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]).flatten()
    high = (radius >= cutoff) & (radius <= _NYQUIST)
    if not high.any():
        raise RequestError(f"images of {height} x {width} have no frequency from {cutoff} to {_NYQUIST}")
    ring = (radius * min(height, width)).round().long()
    counts = torch.bincount(ring[high])
    return torch.where(high, 1 / counts.double()[ring.clamp(max=len(counts) - 1)], 0.0) / (counts > 0).sum()
