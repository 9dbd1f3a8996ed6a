import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Inference, Level, hard_concrete, open_logits, standard_normal
from pipeline.models.objectives.sparsity import SparsityConfig, active_fraction, expected_l0, gate_kl, l1, sparsity_cost


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inference(code, log_alpha=None):
    code = code.view(*code.shape, 1, 1)
    gates = None if log_alpha is None else log_alpha.view_as(code)
    return Inference((Level(code, code, None, standard_normal(code), gates),), torch.zeros(len(code), 1, 2, 2))


def test_expected_l0_is_what_sampling_counts():
    log_alpha = torch.tensor([[-4.0, -1.0, 0.0, 1.5, 4.0]])
    gates = hard_concrete(log_alpha.expand(200_000, 5), torch.randn(200_000, 5))
    assert expected_l0(log_alpha).item() == pytest.approx((gates != 0).float().sum(1).mean().item(), abs=0.01)


def test_gate_kl_is_the_reference_and_never_less_than_that_of_the_mean():
    log_alpha = torch.randn(64, 7) * 3
    opened = Bernoulli(logits=open_logits(log_alpha))
    found = gate_kl(log_alpha, 0.1)
    torch.testing.assert_close(found, kl_divergence(opened, Bernoulli(torch.tensor(0.1))).sum(1), atol=1e-5, rtol=1e-4)
    of_mean = kl_divergence(Bernoulli(opened.probs.mean(0)), Bernoulli(torch.tensor(0.1))).sum()
    assert found.mean() >= of_mean
    # Gates that are open as often as wanted cost nothing.
    on_target = torch.full((1, 3), math.log(0.1 / 0.9)) - (open_logits(torch.zeros(())))
    assert gate_kl(on_target, 0.1).item() == pytest.approx(0.0, abs=1e-6)


def test_costs_by_hand():
    code = torch.tensor([[1.0, -2.0, 0.0, 0.001], [0.0, 0.0, 0.0, 3.0]])
    assert l1(code).tolist() == pytest.approx([3.001, 3.0])
    assert active_fraction(inference(code)).tolist() == [0.5, 0.25]
    assert sparsity_cost(inference(code), SparsityConfig(cost="l1")).tolist() == pytest.approx([3.001, 3.0])
    # log alpha at which a gate is open half of the time.
    half = torch.zeros(2, 4) - open_logits(torch.zeros(()))
    assert sparsity_cost(inference(code, half), SparsityConfig()).tolist() == pytest.approx([2.0, 2.0])


def test_settings_are_checked():
    with pytest.raises(RequestError, match=r"SparsityConfig.target_fraction must be between 0 and 1, got 1.0"):
        SparsityConfig(target_fraction=1.0)
