from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from benchmarks.measures.likelihood import corrected_mean, importance_nll
from benchmarks.tests.images import bars, flat, ladder
from pipeline.errors import RequestError
from pipeline.models.autoencoders.interface import Autoencoder, AutoencoderConfig
from pipeline.models.autoencoders.latents import Gaussian, Inference, Level, standard_normal
from pipeline.models.objectives.objective import elbo

SIGMA, LATENTS, PIXELS = 0.3, 2, 6


class Linear(Autoencoder):
    """x = 0.5 + A z + SIGMA e with z standard normal, whose likelihood has a closed form.

    The decoder's logits are those of 0.5 + A z. The posterior is the exact one, widened, or moved away from it.
    """

    def __init__(self, widen: float = 1.0, move: float = 0.0) -> None:
        super().__init__(AutoencoderConfig(channels=1, widths=(8,), blocks=(0,), decoder_blocks=(0,), scale=SIGMA))
        torch.manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(PIXELS, LATENTS) * 0.06)
        self.widen, self.move, self.seen = widen, move, 0

    def latent_shapes(self, height, width):
        return [(LATENTS, 1, 1)]

    def encode(self, image):
        self.seen += len(image)
        precision = torch.eye(LATENTS) + self.matrix.T @ self.matrix / SIGMA**2
        mean = (image.flatten(1) - 0.5) @ self.matrix @ torch.linalg.inv(precision) / SIGMA**2
        deviation = torch.linalg.inv(precision).diagonal().sqrt() * self.widen
        return [mean + self.move, deviation.log().mul(2).expand_as(mean)]

    def infer_encoded(self, encoded, noise, height, width):
        mean, log_variance = (value[..., None, None] for value in encoded)
        posterior = Gaussian(mean, log_variance)
        sample = mean if noise is None else posterior.sample(noise[0])
        pixels = 0.5 + sample.flatten(1) @ self.matrix.T
        logits = pixels.clamp(1e-6, 1 - 1e-6).logit().view(-1, 1, height, width)
        return Inference((Level(sample, mean, posterior, standard_normal(sample)),), logits)

    def decode(self, latents, height, width):
        raise AssertionError

    def sample(self, noise, height, width):
        raise AssertionError

    def exact(self, image: torch.Tensor) -> np.ndarray:
        covariance = self.matrix @ self.matrix.T + SIGMA**2 * torch.eye(PIXELS)
        return -MultivariateNormal(torch.full((PIXELS,), 0.5), covariance).log_prob(image.flatten(1)).detach().numpy()


def pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("widen", "move"), [(1.0, 0.0), (1.3, 0.0), (1.2, 0.3)])
def test_a_linear_model_has_its_exact_likelihood(widen, move):
    model, image = Linear(widen, move), pixels(20)
    found = importance_nll(model, image, (5000,))[5000]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, model.exact(image), atol=0.05)
    assert abs((found - model.exact(image)).mean()) < 0.01


def test_bounds_get_tighter_with_more_samples():
    model, image = Linear(1.5, 0.8), pixels(200)
    found = importance_nll(model, image, (1, 10, 100, 1000))
    means = [found[count].mean() for count in (1, 10, 100, 1000)]
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] > 0.3
    assert means[-1] == pytest.approx(model.exact(image).mean(), abs=0.02)


def test_one_sample_is_the_bound():
    """The mean of one-sample estimates is the negative evidence lower bound."""
    model, image = flat().eval(), bars(1)[0].expand(4000, -1, -1, -1)
    found = importance_nll(model, image, (1,))[1]
    with torch.no_grad():
        bounds = elbo(model, image, model.infer(image, [torch.randn(4000, 3, 3, 3)])).total()
    error = math.hypot(found.std(), bounds.std().item()) / math.sqrt(4000)
    assert abs(found.mean() - bounds.mean().item()) < 4 * error


@pytest.mark.parametrize("build", [flat, ladder, lambda: flat(likelihood="bernoulli")])
def test_results_do_not_depend_on_the_pieces(build):
    model, image = build(), bars(7)[0]
    whole = importance_nll(model, image, (70, 120), seed=5)
    pieces = importance_nll(model, image, (70, 120), seed=5, rows=1)
    alone = importance_nll(model, image[3:5], (70,), seed=5, places=[3, 4])
    other = importance_nll(model, image, (70,), seed=6)
    for count in (70, 120):
        np.testing.assert_allclose(whole[count], pieces[count], rtol=1e-6)
    np.testing.assert_allclose(whole[70][3:5], alone[70], rtol=1e-6)
    assert (np.abs(whole[70] - other[70]) > 1e-3).all()


def test_the_encoder_runs_once_for_each_image():
    model = Linear()
    importance_nll(model, pixels(9), (500,))
    assert model.seen == 9


@pytest.mark.parametrize("build", [flat, ladder])
def test_bfloat16_is_near(build):
    model, image = build(), bars(4)[0]
    exact, rounded = (importance_nll(model, image, (50,), bfloat16=on)[50] for on in (False, True))
    assert (exact != rounded).all()
    np.testing.assert_allclose(exact, rounded, rtol=0.05)


def test_nothing_but_gaussian_posteriors_has_a_likelihood():
    with pytest.raises(RequestError, match="Gaussian posteriors, but ConvVAE has others"):
        importance_nll(flat(code="deterministic"), bars(2)[0], (5,))
    with pytest.raises(RequestError, match="positive numbers"):
        importance_nll(flat(), bars(2)[0], (0,))
    with pytest.raises(RequestError, match="2 numbers, one for each image, got 1"):
        importance_nll(flat(), bars(2)[0], (5,), places=[0])


def test_a_corrected_mean_by_hand():
    few = np.array([10.0, 20.0, 30.0, 40.0])
    found = corrected_mean(few, np.array([9.0, 27.0]), np.array([0, 2]))
    # Differences -1 and -3: mean -2, variance 2; two of four are left out.
    assert found.value == pytest.approx(25 - 2)
    assert found.standard_error == pytest.approx(math.sqrt(2 * (1 / 2 - 1 / 4)))
    all_of_them = corrected_mean(few, few - 1, np.arange(4))
    assert all_of_them.value == pytest.approx(24)
    assert all_of_them.standard_error == 0
    with pytest.raises(RequestError, match="at least 2 different places"):
        corrected_mean(few, np.array([9.0, 9.0]), np.array([1, 1]))


def test_a_corrected_mean_is_as_far_off_as_it_says():
    random = np.random.default_rng(0)
    few = random.normal(90, 10, 1000)
    many = few - 1 + random.normal(0, 0.5, 1000)
    errors, said = [], []
    for _ in range(500):
        subset = random.choice(1000, 100, replace=False)
        found = corrected_mean(few, many[subset], subset)
        errors.append(found.value - many.mean())
        said.append(found.standard_error)
    assert np.std(errors) == pytest.approx(np.mean(said), rel=0.15)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(500)
    assert np.mean(said) < 0.1 * np.std(many) / math.sqrt(100), "far sharper than the subset alone"
