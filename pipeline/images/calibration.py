"""How sure a segmenter is, and the temperature by which its probabilities say so truthfully (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.images.inputs import NO_CLASS
from pipeline.images.upsampling import Bands

_TEMPERATURES = torch.logspace(math.log10(0.25), math.log10(8.0), 41)
_STRIDE_PX = 3  # between the pixels that the fit looks at, along both axes; neighbours say the same


class Sureness:
    """Means over the pixels of an image: the probability of the likeliest class, and the entropy in nats."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._pixels = 0
        self._top = self._entropy = torch.zeros((), dtype=torch.float64)

    def passing(self, bands: Bands) -> Iterator[Iterator[Float[Tensor, "k rows columns"]]]:
        """The same bands of logits, looked at on their way."""
        for blocks in bands:
            yield map(self._seen, blocks)

    @property
    def confidence(self) -> float:
        return self._top.item() / self._pixels

    @property
    def uncertainty(self) -> float:
        return self._entropy.item() / self._pixels

    def _seen(self, logits: Float[Tensor, "k rows columns"]) -> Tensor:
        log_probability = (logits / self._temperature).log_softmax(0)
        probability = log_probability.exp()
        self._pixels += logits[0].numel()
        self._top = self._top.to(logits.device) + probability.amax(0).sum(dtype=torch.float64)
        entropy = (probability * log_probability).sum(dtype=torch.float64)
        self._entropy = self._entropy.to(logits.device) - entropy
        return logits


class TemperatureFit:
    """Finds the temperature with the smallest negative log-likelihood of the labels of some images."""

    def __init__(self) -> None:
        self._loss = torch.zeros(len(_TEMPERATURES), dtype=torch.float64)
        self._pixels = 0

    def add(self, logits: Float[Tensor, "b k h w"], label: Int64[Tensor, "b h w"]) -> None:
        """Add the pixels of a batch that have a class, one of nine."""
        logits, label = logits[..., ::_STRIDE_PX, ::_STRIDE_PX], label[:, ::_STRIDE_PX, ::_STRIDE_PX]
        known = label != NO_CLASS
        logits, label = logits.float().movedim(1, 3)[known], label[known]
        mine = logits.gather(1, label[:, None])[:, 0]
        for index, temperature in enumerate(_TEMPERATURES.to(logits.device)):
            loss = (logits / temperature).logsumexp(1) - mine / temperature
            self._loss[index] += loss.double().sum().cpu()
        self._pixels += len(label)

    def temperature(self) -> float:
        """The best temperature, between those that were tried by a parabola; 1 if no pixel had a class."""
        if not self._pixels:
            return 1.0
        best = int(self._loss.argmin())
        if not 0 < best < len(_TEMPERATURES) - 1:
            return float(_TEMPERATURES[best])
        left, middle, right = self._loss[best - 1 : best + 2].tolist()
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        step = math.log(float(_TEMPERATURES[1] / _TEMPERATURES[0]))
        return float(_TEMPERATURES[best]) * math.exp(shift * step)
