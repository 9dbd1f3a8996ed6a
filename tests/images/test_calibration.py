"""How sure a segmenter is: means over pixels, and the temperature that makes probabilities true."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.images.calibration import Sureness, TemperatureFit
from pipeline.images.inputs import NO_CLASS


def test_means_by_hand() -> None:
    probability = torch.tensor([[0.9, 0.5], [0.1, 0.5]])  # two classes, two pixels
    sure = Sureness(1.0)
    bands = [iter([probability.log()[:, None, :1]]), iter([probability.log()[:, None, 1:]])]
    assert [len(list(blocks)) for blocks in sure.passing(bands)] == [1, 1]
    assert sure.confidence == pytest.approx(0.7)
    entropy = [-sum(p * math.log(p) for p in column) for column in ((0.9, 0.1), (0.5, 0.5))]
    assert sure.uncertainty == pytest.approx(sum(entropy) / 2)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.7])
def test_the_temperature_is_found(true: float) -> None:
    """Labels are drawn with the probabilities of logits that are divided by the temperature."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 4, 240, 240)
    drawn = torch.distributions.Categorical(logits=(logits / true).movedim(1, 3)).sample()
    drawn[:, :9] = NO_CLASS
    fit = TemperatureFit()
    fit.add(logits[:1], drawn[:1])
    fit.add(logits[1:], drawn[1:])
    assert fit.temperature() == pytest.approx(true, rel=0.08)


def test_without_labels_nothing_changes() -> None:
    fit = TemperatureFit()
    fit.add(torch.randn(1, 3, 8, 8), torch.full((1, 8, 8), NO_CLASS))
    assert fit.temperature() == 1.0
