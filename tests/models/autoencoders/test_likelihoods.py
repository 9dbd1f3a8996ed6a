import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from pipeline.models.autoencoders.likelihoods import bernoulli_nll, bits_per_dimension, gaussian_nll, logistic_nll, nll


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_densities_are_the_reference():
    x, mean, log_sigma = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.tensor(-1.3)
    torch.testing.assert_close(gaussian_nll(x, mean, log_sigma), -Normal(mean, log_sigma.exp()).log_prob(x))
    bits, logits = (x > 0.5).float(), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(bernoulli_nll(bits, logits), -Bernoulli(logits=logits).log_prob(bits))
    # The mean of a density is the sigmoid of the decoder's logits.
    torch.testing.assert_close(nll("gaussian", x, mean.logit(), log_sigma), gaussian_nll(x, mean, log_sigma))


def test_the_best_shared_sigma_is_the_root_mean_squared_error():
    error = torch.randn(4, 3, 5, 5) * 0.1
    log_sigma = (0.5 * error.square().mean().log()).requires_grad_()
    gaussian_nll(error, torch.zeros_like(error), log_sigma).sum().backward()
    assert log_sigma.grad.item() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("log_scale", [-9.0, -4.0, -1.0, 3.0])
def test_the_discretised_logistic_sums_to_one(mean, log_scale):
    levels = torch.arange(256) / 255
    cost = logistic_nll(levels, torch.full((256,), mean), torch.tensor(log_scale))
    assert cost.isfinite().all()
    assert torch.exp(-cost.double()).sum().item() == pytest.approx(1.0, abs=1e-4)


def test_the_discretised_logistic_is_the_difference_of_cumulative_functions():
    mean, scale = torch.tensor(0.4), 0.1
    for level in (0, 1, 100, 255):
        upper = 1.0 if level == 255 else 1 / (1 + math.exp(-((level + 0.5) / 255 - 0.4) / scale))
        lower = 0.0 if level == 0 else 1 / (1 + math.exp(-((level - 0.5) / 255 - 0.4) / scale))
        found = logistic_nll(torch.tensor(level / 255), mean, torch.tensor(math.log(scale)))
        assert found.item() == pytest.approx(-math.log(upper - lower), rel=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "logistic"])
def test_finite_at_wrong_certainty(likelihood):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    cost = nll(likelihood, torch.tensor([1.0, 0.0]), logits, torch.tensor(-6.0))
    cost.sum().backward()
    assert cost.isfinite().all()
    assert logits.grad.isfinite().all()


def test_bits_per_dimension_by_hand():
    # The uniform density on [0, 1] has 0 nats; 256 equal levels are 8 bits.
    assert bits_per_dimension(torch.tensor(0.0), 10, 256).item() == pytest.approx(8.0)
    assert bits_per_dimension(torch.tensor(10 * math.log(2)), 10, 256).item() == pytest.approx(9.0)
    assert bits_per_dimension(torch.tensor(10 * math.log(2)), 10, 1).item() == pytest.approx(1.0)
