import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from pipeline.models.objectives import (
    Posterior,
    bernoulli_nll,
    bits_per_dimension,
    elbo,
    gaussian_nll,
    kl_to_standard_normal,
)


def test_kl_is_the_closed_form():
    mean, log_variance = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    found = kl_to_standard_normal(Posterior(mean, log_variance))
    wanted = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(found, wanted)
    # By hand: mean 1, variance 1 is half a nat; a posterior that is the prior is none.
    assert kl_to_standard_normal(Posterior(torch.ones(1, 1), torch.zeros(1, 1))).item() == 0.5
    assert kl_to_standard_normal(Posterior(torch.zeros(1, 9), torch.zeros(1, 9))).item() == 0


def test_likelihoods_are_the_reference_densities():
    x, mean, log_sigma = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.tensor(-1.3)
    torch.testing.assert_close(gaussian_nll(x, mean, log_sigma), -Normal(mean, log_sigma.exp()).log_prob(x))
    bits = (x > 0.5).float()
    torch.testing.assert_close(bernoulli_nll(bits, mean), -Bernoulli(mean).log_prob(bits))
    assert bernoulli_nll(torch.ones(1), torch.zeros(1)).isfinite().all()


def test_sums_over_pixels_and_leaves_padding_out():
    image, decoded = torch.rand(2, 3, 4, 6), torch.rand(2, 3, 4, 6)
    posterior = Posterior(torch.randn(2, 5), torch.randn(2, 5))
    settings = {"likelihood": "gaussian", "log_sigma": torch.tensor(-1.0)}
    whole = elbo(image, decoded, posterior, **settings)
    by_hand = -Normal(decoded, math.exp(-1.0)).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(whole.reconstruction, by_hand)
    torch.testing.assert_close(whole.total(0.5), by_hand + 0.5 * whole.kl)
    valid = torch.zeros(2, 1, 4, 6)
    valid[..., :3] = 1
    left = elbo(image, decoded, posterior, **settings, valid=valid)
    half = elbo(image[..., :3], decoded[..., :3], posterior, **settings)
    torch.testing.assert_close(left.reconstruction, half.reconstruction)
    torch.testing.assert_close(left.kl, whole.kl)


def test_linear_gaussian_bound_is_tight_at_the_true_posterior():
    """x = W z + noise has a marginal and a posterior in closed form; with W^T W diagonal the posterior is, too."""
    torch.manual_seed(0)
    sigma, count = 0.4, 200_000
    weights = torch.linalg.qr(torch.randn(6, 2))[0] @ torch.diag(torch.tensor([1.0, 0.5]))
    x = torch.rand(6)
    marginal = MultivariateNormal(torch.zeros(6), weights @ weights.T + sigma**2 * torch.eye(6)).log_prob(x)
    variance = 1 / (1 + weights.square().sum(0) / sigma**2)
    mean = variance * (weights.T @ x) / sigma**2
    posterior = Posterior(mean.expand(count, 2), variance.log().expand(count, 2))
    decoded = (posterior.sample(torch.randn(count, 2)) @ weights.T).view(count, 1, 1, 6)
    image = x.view(1, 1, 1, 6).expand(count, 1, 1, 6)
    log_sigma = torch.tensor(math.log(sigma))
    bound = elbo(image, decoded, posterior, likelihood="gaussian", log_sigma=log_sigma)
    assert bound.total().mean().item() == pytest.approx(-marginal.item(), abs=0.01)
    worse = posterior._replace(log_variance=posterior.log_variance + 1.0)
    decoded = (worse.sample(torch.randn(count, 2)) @ weights.T).view(count, 1, 1, 6)
    loose = elbo(image, decoded, worse, likelihood="gaussian", log_sigma=log_sigma)
    assert loose.total().mean() > bound.total().mean() + 0.1


def test_the_best_shared_sigma_is_the_root_mean_squared_error():
    error = torch.randn(4, 3, 5, 5) * 0.1
    log_sigma = (0.5 * error.square().mean().log()).requires_grad_()
    gaussian_nll(error, torch.zeros_like(error), log_sigma).sum().backward()
    assert log_sigma.grad.item() == pytest.approx(0.0, abs=1e-3)


def test_bits_per_dimension_by_hand():
    # The uniform density on [0, 1] has 0 nats; 256 equal levels are 8 bits.
    assert bits_per_dimension(torch.tensor(0.0), 10, 256).item() == pytest.approx(8.0)
    assert bits_per_dimension(torch.tensor(10 * math.log(2)), 10, 256).item() == pytest.approx(9.0)
