"""The loop that every training outside of the trainer shares, and the parts that the trainer has of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.training.optimiser import AveragedWeights, cosine, minimise, parameter_groups, schedule


def test_schedule_rises_and_falls() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01
    assert [cosine(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])


def test_only_what_learns_is_in_a_group_and_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(2), nn.Linear(2, 1))
    model[0].weight.requires_grad_(False)
    decayed, plain = parameter_groups(model.parameters(), 0.1)
    assert decayed["weight_decay"] == 0.1
    assert [id(item) for item in decayed["params"]] == [id(model[2].weight)]
    assert plain["weight_decay"] == 0
    assert [item.ndim for item in plain["params"]] == [1, 1, 1, 1]
    assert len(parameter_groups(nn.LayerNorm(2).parameters(), 0.1)) == 1


def test_averages_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    average = AveragedWeights(model, 0.15)
    values = [10.0, 20.0]
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(-value)
        model.num_batches_tracked.fill_(step + 5)
        average.update(step)
    # Decays 1/10, and 2/11 cut to 0.15.
    found = average.model.state_dict()
    assert float(found["weight"]) == pytest.approx(0.15 * (0.1 * 1 + 0.9 * 10) + 0.85 * 20)
    assert float(found["running_mean"]) == pytest.approx(0.15 * 0.9 * -10 - 0.85 * 20)
    assert found["num_batches_tracked"] == 6
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_steps_by_hand() -> None:
    """Gradient descent on slope * x: x falls by rate times slope, and by rate times the norm where that is clipped."""
    x = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([x], 0.5)
    places, costs = [], []

    def cost(step: int) -> Tensor:
        return (3.0, 1.0, 100.0)[step] * x

    def report(step: int, value: float) -> None:
        places.append((step, x.item()))
        costs.append(value)

    minimise(cost, optimizer, LambdaLR(optimizer, lambda step: 1 - step / 4), 3, clip_norm=2.0, report=report)
    assert places == [(0, pytest.approx(-1.0)), (1, pytest.approx(-1.375)), (2, pytest.approx(-1.875))]
    assert costs == pytest.approx([0, -1.0, -137.5])


def test_the_average_follows() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    optimizer, average = torch.optim.SGD(model.parameters(), 1.0), AveragedWeights(model, 0.5)
    minimise(lambda _: -model.weight.sum(), optimizer, LambdaLR(optimizer, lambda _: 1.0), 2, average=average)
    assert model.weight.item() == 2
    assert float(average.model.state_dict()["weight"]) == pytest.approx(0.9 + (2 - 0.9) * 9 / 11)
