"""What samplers make of standard normal numbers, worked by hand; and what their settings refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import RequestError
from pipeline.models.autoencoders.samplers import (
    MixtureConfig,
    MixtureSampler,
    PriorConfig,
    PriorSampler,
    TwoStageConfig,
    TwoStageSampler,
)

SHAPES = [(2, 1, 1), (1, 2, 2)]


class Given:
    """Standard normal numbers, of which the next ones can be told beforehand."""

    def __init__(self, *values: Tensor) -> None:
        self.values = list(values)

    def __call__(self, *shape: int) -> Tensor:
        value = self.values.pop(0)
        assert tuple(value.shape[1:]) == shape
        return value


def test_the_prior_is_the_numbers_themselves() -> None:
    given = [torch.randn(3, *shape) for shape in SHAPES]
    found = PriorSampler(PriorConfig(), SHAPES).draw(Given(*given))
    assert all(torch.equal(one, other) for one, other in zip(found, given, strict=True))


def mixture(covariance: Any, **settings: Any) -> MixtureSampler:
    sampler = MixtureSampler(MixtureConfig(components=2, covariance=covariance, **settings), SHAPES)
    sampler.cumulative.copy_(torch.tensor([0.25, 1.0]))
    sampler.center.copy_(torch.tensor([10.0, 20.0]))
    sampler.scale.copy_(torch.tensor([1.0, 2.0]))
    return sampler


def test_a_mixture_by_hand() -> None:
    sampler = mixture("full")
    sampler.means.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
    sampler.factors.copy_(torch.tensor([[[2.0, 0.0], [1.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]]))
    # The quantile of 0.25 is -0.674: below it is the first Gaussian.
    chosen, noise, finer = torch.tensor([[-0.7], [-0.6]]), torch.ones(2, 2), torch.randn(2, 1, 2, 2)
    found = sampler.draw(Given(chosen, noise, finer))
    assert found[0].flatten(1).tolist() == [[10 + 3, 20 + 2 * 6], [10 + 0, 20 + 2 * 1]]
    assert torch.equal(found[1], finer)


def test_a_mixture_of_main_directions_by_hand() -> None:
    sampler = mixture("low_rank", rank=1)
    sampler.means.copy_(torch.tensor([[1.0], [5.0]]))
    sampler.factors.copy_(torch.tensor([[[2.0]], [[0.0]]]))
    sampler.directions.copy_(torch.tensor([[0.6], [0.8]]))
    sampler.noise.copy_(torch.tensor([0.1, 0.0]))
    normal = Given(torch.tensor([[-9.0]]), torch.ones(1, 1), torch.ones(1, 2), torch.zeros(1, 1, 2, 2))
    expected = torch.tensor([[10 + 1.8 + 0.1, 20 + 2 * 2.4]])
    torch.testing.assert_close(sampler.draw(normal)[0].flatten(1), expected)


def test_the_cost_of_the_second_stage_is_a_bound() -> None:
    """With a decoder that ignores its latents and a posterior equal to the prior it is the density itself."""
    sampler = TwoStageSampler(TwoStageConfig(width=4, blocks=1), SHAPES)
    with torch.no_grad():
        for part in (sampler.encoder, sampler.decoder):
            for parameter in list(part.parameters())[-2:]:
                parameter.zero_()
        sampler.scale_of_output.fill_(math.log(2.0) / 10)
    value = torch.tensor([[1.0, -3.0]])
    density = torch.distributions.Normal(0.0, 2.0).log_prob(value).sum(1)
    torch.testing.assert_close(sampler.cost(value, torch.randn(1, 2)), -density)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MixtureConfig(components=9), "MixtureConfig.components must be at most the number of images, 8, got 9"),
        (MixtureConfig(components=2, levels=3), "MixtureConfig.levels must be at most the model's 2, got 3"),
        (TwoStageConfig(levels=3), "TwoStageConfig.levels must be at most the model's 2, got 3"),
        (MixtureConfig(components=2, covariance="low_rank", rank=7), "MixtureConfig.rank must be at most 2, latents"),
    ],
)
def test_settings_that_do_not_fit_the_latents(settings: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        settings.check_latents(SHAPES, 8)


def test_full_covariances_of_many_latents_are_refused_with_what_to_do() -> None:
    many, message = (
        [(8, 8, 9)],
        "covariance must be 'low_rank' or 'diagonal' for 576 latents, more than 512, got 'full'",
    )
    with pytest.raises(RequestError, match=message):
        MixtureConfig(components=2).check_latents(many, 1000)
    for covariance in ("low_rank", "diagonal"):
        MixtureConfig(components=2, covariance=covariance).check_latents(many, 1000)


@pytest.mark.parametrize("name", ["components", "rank", "iterations", "regularisation", "levels"])
def test_no_setting_is_zero(name: str) -> None:
    with pytest.raises(RequestError, match=rf"MixtureConfig\.{name} must be"):
        MixtureConfig(**{name: 0.0 if name == "regularisation" else 0})  # type: ignore[arg-type]
