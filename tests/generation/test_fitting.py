"""Samplers recover what they were fitted to, and serve every autoencoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import models
from pipeline.errors import RequestError
from pipeline.generation import drawing, fitting, keeping
from pipeline.models.autoencoders.samplers import MixtureConfig, PriorConfig, SamplerConfig, TwoStageConfig
from pipeline.models.objectives.divergences import mmd
from pipeline.noise import Noise
from tests.models.autoencoders.test_family import NETWORKS, SIZE

HOW: dict[str, SamplerConfig] = {
    "prior": PriorConfig(),
    "mixture": MixtureConfig(components=3, iterations=5),
    "two_stage": TwoStageConfig(width=16, blocks=1, steps=10),
}


def drawn(sampler: Any, count: int) -> Tensor:
    """Latents of the coarsest level, (n, d)."""
    return sampler.draw(Noise(5, 0, range(count)).normal)[0].flatten(1)


def known_mixture(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    means = torch.tensor([[4.0, 0.0, 1.0], [-4.0, 2.0, 1.0]])
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [0.0, 0.3, 0.2]])
    first = torch.rand(count, generator=generator) < 0.3
    return means[1 - first.long()] + torch.randn(count, 3, generator=generator) @ mixing.T


@pytest.mark.parametrize(
    "settings",
    [
        MixtureConfig(components=2),
        MixtureConfig(components=8, covariance="diagonal"),
    ],
    ids=lambda settings: settings.covariance,
)
def test_a_mixture_has_the_moments_of_its_latents(settings: MixtureConfig) -> None:
    latents = known_mixture(2000)
    found = drawn(fitting.fit_sampler(settings, [latents.view(-1, 3, 1, 1)], 0), 2000)
    torch.testing.assert_close(found.mean(0), latents.mean(0), atol=0.2, rtol=0)
    # Eight Gaussians without a slant hold less of what is slanted.
    tolerance = 1.0 if settings.covariance == "diagonal" else 0.6
    torch.testing.assert_close(found.T.cov(), latents.T.cov(), atol=tolerance, rtol=0)
    # As many on the left, of the first latent, and hardly any between the two Gaussians.
    assert (found[:, 0] < 0).float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert (found[:, 0].abs() < 1).float().mean().item() < 0.02
    assert mmd(found, latents).abs() < 2e-3


def test_a_mixture_of_low_rank_keeps_main_directions_and_all_variances() -> None:
    generator = torch.Generator().manual_seed(4)
    spread = torch.randn(2, 12, generator=generator)
    latents = known_mixture(2000)[:, :2] @ spread + 0.3 * torch.randn(2000, 12, generator=generator)
    settings = MixtureConfig(components=2, covariance="low_rank", rank=2)
    found = drawn(fitting.fit_sampler(settings, [latents.view(-1, 3, 2, 2)], 0), 2000)
    torch.testing.assert_close(found.var(0), latents.var(0), atol=0, rtol=0.15)
    # Both Gaussians, in the direction that tells them apart.
    apart = torch.linalg.pinv(spread)[:, 0]
    assert ((latents @ apart) < 0).float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert ((found @ apart) < 0).float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert ((found @ apart).abs() < 1).float().mean().item() < 0.02


def ring(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    radius = 2 + 0.1 * torch.randn(count, generator=generator)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


def test_the_second_stage_comes_closer_to_a_ring_than_the_prior() -> None:
    settings = TwoStageConfig(width=64, steps=400, batch_rows=128, learning_rate=2e-3)
    two_stage = fitting.fit_sampler(settings, [ring(2000, 0).view(-1, 2, 1, 1)], 0)
    data = ring(1000, 1)
    far = mmd(drawn(fitting.build_sampler(PriorConfig(), [(2, 1, 1)]), 1000), data)
    near = drawn(two_stage, 1000)
    assert mmd(near, data) < 0.1 * far
    assert (near.norm(dim=1) < 1).float().mean() < 0.1  # the hole in the middle
    assert near[:, 0].std() > 1  # all around


class Case:
    """A new model, latents of random images, and a sampler."""

    def __init__(self, network: str, how: str) -> None:
        name, settings = NETWORKS[network]
        torch.manual_seed(0)
        self.model: Any = models.build(name, json.loads(json.dumps(settings)))
        self.settings = HOW[how]
        self.latents = fitting.latents_of_images(self.model, torch.rand(24, 3, *SIZE), 1, range(24))
        self.sampler = fitting.fit_sampler(self.settings, self.latents, 1)

    def images(self, sampler: Any, count: int, batch_rows: int, seed: int = 7) -> Tensor:
        height, width = SIZE
        batches = drawing.draw_images(
            self.model, sampler, range(count), seed=seed, height=height, width=width, batch_rows=batch_rows
        )
        return torch.cat(list(batches))


@pytest.fixture(params=[(network, how) for network in NETWORKS for how in HOW], ids=lambda pair: "-".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def test_every_model_draws_from_every_sampler(case: Case, tmp_path: Path) -> None:
    images = case.images(case.sampler, 5, batch_rows=5)
    assert images.shape == (5, 3, *SIZE)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, case.images(case.sampler, 5, batch_rows=5))
    torch.testing.assert_close(case.images(case.sampler, 4, batch_rows=3), images[:4], atol=1e-5, rtol=0)
    assert not torch.allclose(case.images(case.sampler, 5, batch_rows=5, seed=8), images, atol=1e-4)
    assert torch.equal(case.images(fitting.fit_sampler(case.settings, case.latents, 1), 5, batch_rows=5), images)

    keeping.save(str(tmp_path), case.sampler, model="digest", seed=1)
    again = keeping.load(str(tmp_path), "digest")
    assert keeping.name_of(again) == keeping.name_of(case.sampler)
    assert again.config == case.settings
    assert torch.equal(case.images(again, 5, batch_rows=5), images)


def test_finer_levels_of_a_hierarchy_can_be_fitted_too() -> None:
    case = Case("ladder", "prior")
    first, both = (
        fitting.fit_sampler(MixtureConfig(components=2, levels=levels), case.latents, 0).draw(
            Noise(0, 0, range(3)).normal
        )
        for levels in (1, 2)
    )
    assert [level.shape[1:] for level in first] == [level.shape[1:] for level in both]
    # Finer latents are the numbers themselves only where they are not fitted.
    assert not torch.allclose(first[1], both[1])


def test_a_latent_that_never_changes_stays_what_it_is() -> None:
    latents = torch.randn(50, 3, 1, 1)
    latents[:, 1] = 0.25
    for how in ("mixture", "two_stage"):
        found = drawn(fitting.fit_sampler(HOW[how], [latents], 0), 20)
        torch.testing.assert_close(found[:, 1], torch.full((20,), 0.25), atol=1e-4, rtol=0)


def test_latents_that_are_no_numbers_are_refused() -> None:
    latents = torch.randn(50, 3, 1, 1)
    latents[3, 1] = torch.nan
    with pytest.raises(RequestError, match="finite latents"):
        fitting.fit_sampler(HOW["mixture"], [latents], 0)


def test_a_sampler_for_another_size_or_model_or_of_other_weights_is_refused(tmp_path: Path) -> None:
    case = Case("flat", "mixture")
    with pytest.raises(RequestError, match=r"the sampler is for latents of \[\(4, 4, 5\)\], not \[\(4, 4, 4\)\]"):
        next(drawing.draw_images(case.model, case.sampler, range(2), seed=0, height=16, width=16))
    where = str(tmp_path / "sampler")
    with pytest.raises(RequestError, match="no sampler at"):
        keeping.load(where, "one")
    keeping.save(where, case.sampler, model="one", seed=0)
    with pytest.raises(RequestError, match="must be of model other, got one"):
        keeping.load(where, "other")
    assert {path.name for path in Path(where).iterdir()} == {"sampler.json", "sampler.safetensors"}
    (tmp_path / "sampler" / "sampler.safetensors").write_bytes(b"")
    with pytest.raises(RequestError, match=r"is not the one that sampler\.json names"):
        keeping.load(where, "one")
