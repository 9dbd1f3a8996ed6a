import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pipeline.models.autoencoders.latents import (
    Gaussian,
    Inference,
    Level,
    hard_concrete,
    kl,
    open_logits,
    standard_normal,
    top_k,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def gaussian(*shape):
    return Gaussian(torch.randn(shape), torch.randn(shape))


def reference(found):
    return Normal(found.mean, (0.5 * found.log_variance).exp())


def test_gaussians_are_the_reference():
    one, other = gaussian(3, 2, 4, 5), gaussian(3, 2, 4, 5)
    torch.testing.assert_close(kl(one, other), kl_divergence(reference(one), reference(other)))
    noise = torch.randn(3, 2, 4, 5)
    value = one.sample(noise)
    torch.testing.assert_close(one.noise_of(value), noise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.log_density(value), reference(one).log_prob(value).sum((1, 2, 3)))


def test_kl_by_hand():
    prior = standard_normal(torch.zeros(1, 1))
    # Mean 1, variance 1 is half a nat; a posterior that is the prior is none.
    assert kl(Gaussian(torch.ones(1, 1), torch.zeros(1, 1)), prior).item() == 0.5
    assert kl(prior, prior).item() == 0
    # Variance e^2: (e^2 - 1 - 2) / 2.
    wide = Gaussian(torch.zeros(1, 1), torch.full((1, 1), 2.0))
    assert kl(wide, prior).item() == pytest.approx((math.e**2 - 3) / 2)


def test_kl_adds_up_over_levels_and_channels():
    levels = []
    for shape in ((3, 2, 1, 1), (3, 4, 2, 2)):
        posterior, prior = gaussian(*shape), gaussian(*shape)
        levels.append(Level(posterior.mean, posterior.mean, posterior, prior))
    inference = Inference(tuple(levels), torch.zeros(3, 1, 4, 4))
    wanted = sum(kl_divergence(reference(v.posterior), reference(v.prior)).sum((1, 2, 3)) for v in levels)
    torch.testing.assert_close(inference.kl(), wanted)
    assert [found.shape for found in inference.kl_of_channels()] == [(3, 2), (3, 4)]
    assert inference.code.shape == (3, 2 + 16)
    without = Inference((levels[0]._replace(posterior=None),), torch.zeros(3, 1, 4, 4))
    assert without.kl().tolist() == [0, 0, 0]


def test_importance_weights_estimate_the_evidence():
    """x | z ~ N(z, s^2), z ~ N(0, 1): x ~ N(0, 1 + s^2), whatever the posterior that proposes."""
    x, s, count = 0.7, 0.5, 400_000
    posterior = Gaussian(torch.full((count, 1, 1, 1), 0.3), torch.full((count, 1, 1, 1), -0.5))
    sample = posterior.sample(torch.randn(count, 1, 1, 1))
    level = Level(sample, posterior.mean, posterior, standard_normal(sample))
    ratio = Inference((level,), torch.zeros(count, 1, 1, 1)).log_ratio()
    weights = Normal(sample.flatten(), s).log_prob(torch.tensor(x)) + ratio
    found = torch.logsumexp(weights, 0).item() - math.log(count)
    assert found == pytest.approx(Normal(0.0, (1 + s * s) ** 0.5).log_prob(torch.tensor(x)).item(), abs=0.005)


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 2.0])
def test_gates_are_open_as_often_as_the_closed_form_says(log_alpha):
    gates = hard_concrete(torch.full((400_000,), log_alpha), torch.randn(400_000))
    assert 0 <= gates.min() <= gates.max() <= 1
    wanted = torch.sigmoid(open_logits(torch.tensor(log_alpha))).item()
    assert (gates > 0).float().mean().item() == pytest.approx(wanted, abs=0.003)


def test_gates_without_noise_by_hand():
    # sigmoid(0) = 0.5, stretched to [-0.1, 1.1]: 0.5; far out it is 0 or 1.
    assert hard_concrete(torch.tensor([0.0, -9.0, 9.0]), None).tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_gates_pass_a_gradient():
    log_alpha = torch.zeros(1000, requires_grad=True)
    hard_concrete(log_alpha, torch.randn(1000)).sum().backward()
    assert log_alpha.grad.isfinite().all()
    assert log_alpha.grad.min() >= 0
    assert log_alpha.grad.max() > 0


def test_top_k_by_hand():
    code = torch.tensor([[3.0, -4.0, 1.0, 0.5], [0.1, 0.2, -0.3, 0.4]]).view(2, 4, 1, 1)
    assert top_k(code, 0.5).flatten(1).tolist() == [
        [3.0, -4.0, 0.0, 0.0],
        [0.0, 0.0, pytest.approx(-0.3), pytest.approx(0.4)],
    ]
    assert (top_k(code, 0.01) != 0).flatten(1).sum(1).tolist() == [1, 1]
