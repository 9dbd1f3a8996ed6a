"""The losses of segmentation: values by hand, what has no class, and sums over images."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.images.inputs import NO_CLASS
from pipeline.images.losses import LOSSES, parse_loss, segmentation_loss


def logits_of(probability: list[list[float]]) -> torch.Tensor:
    """One image of one row of pixels, from the probabilities of its classes at each pixel."""
    return torch.tensor(probability).log().T[None, :, None, :]


def value(name: str, probability: list[list[float]], label: list[int], weights: list[float] | None = None) -> float:
    """The loss of one row of pixels, as a mean."""
    given = None if weights is None else torch.tensor(weights)
    total, units, _ = segmentation_loss(logits_of(probability), torch.tensor(label)[None, None], {name: 1.0}, given)
    return float(total / units.sum())


ROW = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]


def test_values_by_hand() -> None:
    label = [0, 1, 1, NO_CLASS]
    truth = [0.9, 0.4, 0.8]
    assert value("cross_entropy", ROW, label) == pytest.approx(sum(-math.log(p) for p in truth) / 3)
    assert value("focal", ROW, label) == pytest.approx(sum(-math.log(p) * (1 - p) ** 2 for p in truth) / 3)
    # A quarter of three pixels is one, the hardest; the loss counts as much as that of all.
    assert value("ohem", ROW, label) == pytest.approx(-math.log(0.4) / 0.25 / 3)
    first = (2 * 0.9 + 1) / (0.9 + 0.6 + 0.2 + 1 + 1)
    second = (2 * (0.4 + 0.8) + 1) / (0.1 + 0.4 + 0.8 + 2 + 1)
    assert value("dice", ROW, label) == pytest.approx(1 - (first + second) / 2)


def test_lovasz_is_one_minus_iou_where_pixels_are_certain() -> None:
    sure = [[1.0, 1e-9], [1.0, 1e-9], [1e-9, 1.0], [1e-9, 1.0]]
    assert value("lovasz", sure, [0, 0, 1, 1]) == pytest.approx(0, abs=1e-6)
    # Class 0: one of two found, nothing else: IoU 1/2. Class 1: both found and one too many: IoU 2/3.
    wrong = [[1.0, 1e-9], [1e-9, 1.0], [1e-9, 1.0], [1e-9, 1.0]]
    assert value("lovasz", wrong, [0, 0, 1, 1]) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2, abs=1e-6)


def test_class_weights_are_a_weighted_mean() -> None:
    found = value("cross_entropy", ROW, [0, 1, 1, NO_CLASS], [1.0, 3.0])
    assert found == pytest.approx((-math.log(0.9) - 3 * math.log(0.4) - 3 * math.log(0.8)) / 7)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name: str) -> None:
    """It falls under gradient descent, leaves out what has no class, and adds up over images."""
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 6, 5)
    label = torch.randint(4, (3, 6, 5))
    label[0, :3] = NO_CLASS
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0])
    whole = segmentation_loss(logits, label, {name: 1.0}, weights)
    parts = [segmentation_loss(logits[i : i + 1], label[i : i + 1], {name: 1.0}, weights) for i in range(3)]
    for index in (0, 1):
        assert float(whole[index].sum()) == pytest.approx(sum(float(part[index].sum()) for part in parts), rel=1e-5)
    changed = logits.clone()
    changed[0, :, :3] = 7.0
    changed[0, 2, :3] = -7.0
    assert float(segmentation_loss(changed, label, {name: 1.0}, weights)[0]) == pytest.approx(float(whole[0]), rel=1e-5)
    learned = logits.clone().requires_grad_()
    for _ in range(50):
        total, units, _ = segmentation_loss(learned, label, {name: 1.0}, weights)
        (gradient,) = torch.autograd.grad(total / units.sum(), learned)
        learned = (learned - 20 * gradient).detach().requires_grad_()
    after = segmentation_loss(learned.detach(), label, {name: 1.0}, weights)[0]
    assert float(after) < 0.6 * float(whole[0])
    nothing = segmentation_loss(logits, torch.full_like(label, NO_CLASS), {name: 1.0}, weights)
    assert (float(nothing[0]), float(nothing[1].sum())) == (0, 0)


def test_sums() -> None:
    assert parse_loss("cross_entropy") == {"cross_entropy": 1.0}
    assert parse_loss("cross_entropy + 0.5*dice+2 * lovasz") == {"cross_entropy": 1.0, "dice": 0.5, "lovasz": 2.0}
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    total, _, logs = segmentation_loss(logits, label, parse_loss("cross_entropy + 0.5 * dice"))
    assert float(total) == pytest.approx(float(logs["cross_entropy"] + 0.5 * logs["dice"]), rel=1e-6)


@pytest.mark.parametrize(
    "text", ["", "mse", "dice + dice", "0 * dice", "-1 * dice", "dice + ", "dice * 2", "2 dice", "cross entropy"]
)
def test_wrong_sums_are_refused(text: str) -> None:
    with pytest.raises(
        RequestError, match="objective must be one or a sum of cross_entropy, focal, ohem, dice, lovasz"
    ):
        parse_loss(text)
