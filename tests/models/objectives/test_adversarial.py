import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.models.objectives.adversarial import AdversarialConfig, Discriminator

LN2 = math.log(2)


def discriminator(**settings):
    torch.manual_seed(0)
    return Discriminator(AdversarialConfig(widths=(8, 16), **settings))


def gradients(cost, judge, images):
    leaves = [*judge.parameters(), *images]
    found = torch.autograd.grad(cost.sum(), leaves, allow_unused=True, retain_graph=True)
    count = len(list(judge.parameters()))
    return found[:count], found[count:]


def test_each_cost_moves_its_own_side_only():
    judge = discriminator()
    images = [torch.rand(3, 3, 12, 16, requires_grad=True) for _ in range(3)]
    verdict = judge.judge(*images)
    for name in ("matching", "generator"):
        own, of_images = gradients(getattr(verdict, name), judge, images)
        assert all(found is None for found in own), name
        assert of_images[0] is None, "the real image is no part of the autoencoder"
        assert of_images[1].abs().max() > 0, name
    for name in ("real", "made", "r1"):
        own, of_images = gradients(getattr(verdict, name), judge, images)
        assert any(found is not None for found in own), name
        assert all(found is None for found in of_images), name


def test_costs_are_those_of_the_plain_formulas():
    judge = discriminator()
    image, again, sample = (torch.rand(2, 3, 12, 16) for _ in range(3))
    verdict = judge.judge(image, again, sample)
    with torch.no_grad():
        real, one, two = (judge(x)[0] for x in (image, again, sample))
        maps, wanted = judge(again)[1], judge(image)[1]
    ones, zeros = torch.ones(2), torch.zeros(2)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(verdict.real, bce(real, ones, reduction="none"))
    made = 0.5 * (bce(one, zeros, reduction="none") + bce(two, zeros, reduction="none"))
    torch.testing.assert_close(verdict.made, made)
    generator = 0.5 * (bce(one, ones, reduction="none") + bce(two, ones, reduction="none"))
    torch.testing.assert_close(verdict.generator, generator)
    errors = [F.mse_loss(a, b, reduction="none").mean((1, 2, 3)) for a, b in zip(maps, wanted, strict=True)]
    torch.testing.assert_close(verdict.matching, 0.5 * 3 * 12 * 16 * (errors[0] + errors[1]) / 2)
    for index in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: judge(x)[0], image[index : index + 1])
        assert verdict.r1[index].item() == pytest.approx(0.5 * jacobian.square().sum().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("costs", "generator", "discriminator_learns"),
    [
        ((LN2, LN2), 1, 1),
        ((0.1, LN2), 1, 0),  # the discriminator is ahead
        ((LN2, 2.0), 0, 1),  # it is behind
        ((0.1, 2.0), 1, 1),  # neither may stop both
    ],
)
def test_the_side_that_is_ahead_waits(costs, generator, discriminator_learns):
    judge = discriminator(start_step=10)
    judge.absorb(torch.tensor(costs, dtype=torch.float64))
    assert [float(gate) for gate in judge.gates(9)] == [0, 0, 0], "a late start"
    assert [float(gate) for gate in judge.gates(10)] == [1, generator, discriminator_learns]


def test_settings_are_checked():
    with pytest.raises(RequestError, match=r"AdversarialConfig.margin must be positive, got 0.0"):
        AdversarialConfig(margin=0.0)
    with pytest.raises(RequestError, match=r"AdversarialConfig.r1 must not be negative, got -1.0"):
        AdversarialConfig(r1=-1.0)
