"""What every autoencoder keeps under every objective that fits it, through the task that trains it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline import config, models, package
from pipeline.errors import RequestError
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models import MODELS
from pipeline.models.objectives.adversarial import AdversarialConfig
from pipeline.models.objectives.divergences import MMDConfig
from pipeline.models.objectives.objective import OBJECTIVES, ObjectiveConfig
from pipeline.models.objectives.sparsity import SparsityConfig
from pipeline.noise import Noise
from pipeline.training.companion import Companion
from pipeline.training.losses import Batch, Loss

SIZE = (16, 20)
STAGES = {"widths": (8, 16), "blocks": (0, 1), "decoder_blocks": (0, 1)}
FLAT = {**STAGES, "latent_channels": 4}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "flat": ("conv_vae", FLAT),
    "dense": ("conv_vae", {**FLAT, "latent": "dense", "size_px": SIZE, "latent_channels": 12}),
    "bernoulli": ("conv_vae", {**FLAT, "likelihood": "bernoulli"}),
    "logistic": ("conv_vae", {**FLAT, "likelihood": "logistic"}),
    "deterministic": ("conv_vae", {**FLAT, "code": "deterministic"}),
    "gated": ("conv_vae", {**FLAT, "code": "hard_concrete"}),
    "top_k": ("conv_vae", {**FLAT, "code": "top_k", "active_fraction": 0.5}),
    "ladder": ("ladder_vae", {**STAGES, "latent_channels": (4, 2)}),
    "dense ladder": ("ladder_vae", {**STAGES, "latent_channels": (12, 2), "size_px": SIZE}),
}
#: What differs from "flat" and "ladder" where two objectives reach it.
OTHERWISE_FLAT = ("dense", "bernoulli", "logistic", "dense ladder")
#: Sizes and weights that suit a batch of four small images; what is late starts at once.
SMALL = {
    "mmd": MMDConfig(frequencies=32, weight=10.0),
    "adversarial": AdversarialConfig(widths=(8, 16), start_step=0, features=0.1),
    "sparsity": {cost: SparsityConfig(cost=cost, weight=0.1) for cost in ("l0", "l1", "kl")},
}


def small(objective: ObjectiveConfig) -> ObjectiveConfig:
    kl = dataclasses.replace(objective.kl, warmup_steps=20)
    sparsity = SMALL["sparsity"][objective.sparsity.cost]
    return dataclasses.replace(objective, kl=kl, mmd=SMALL["mmd"], adversarial=SMALL["adversarial"], sparsity=sparsity)


def fitting() -> list[tuple[str, str]]:
    found = []
    for name, (model, settings) in NETWORKS.items():
        for objective, terms in OBJECTIVES.items():
            if name in OTHERWISE_FLAT and objective not in ("elbo", "vae_gan"):
                continue
            try:
                terms.check_model(MODELS[model][0](**settings))
            except RequestError:
                continue
            found.append((name, objective))
    return found


class Case:
    """A task, a new model for it, its companion, and batches of four images."""

    def __init__(self, name: str, objective: str) -> None:
        self.model_name, settings = NETWORKS[name]
        self.task = ImageReconstruction(height_px=SIZE[0], width_px=SIZE[1], objective=small(OBJECTIVES[objective]))
        torch.manual_seed(0)
        self.model: Any = models.build(self.model_name, json.loads(json.dumps(settings)))
        self.companion: Companion | None = self.task.companion(self.model)
        image = F.interpolate(0.1 + 0.8 * (torch.rand(4, 3, 2, 2) > 0.5), size=SIZE)
        valid = torch.ones(4, 1, *SIZE)
        valid[1, :, 12:] = 0
        self.batch: Batch = {"image": (image * 255).round().to(torch.uint8), "valid": valid}

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *(self.companion.parameters() if self.companion else [])]

    def loss(self, step: int, rows: range = range(4)) -> Loss:
        noise = Noise(1, step, rows)
        part = {name: value[rows.start : rows.stop] for name, value in self.batch.items()}
        return (self.companion or self.task).loss(self.model, part, noise)

    def minimised(self, loss: Loss, whole: Loss) -> torch.Tensor:
        """What one worker sends backward, whose share of a batch has ``loss`` while all of it has ``whole``."""
        found = loss.total / whole.units
        if self.companion is not None:
            shares = {name: value / whole.units for name, value in loss.sums.items()}
            means = {name: (value / whole.units).detach().double() for name, value in whole.sums.items()}
            carrier, _ = self.companion.couple(shares, means, whole.units.item())
            found = found if carrier is None else found + carrier
        return found

    def step(self, step: int, optimizer: torch.optim.Optimizer) -> Loss:
        """As the trainer does."""
        loss = self.loss(step)
        optimizer.zero_grad()
        self.minimised(loss, loss).backward()
        if self.companion is not None:
            self.companion.absorb({name: (value / loss.units).detach() for name, value in loss.sums.items()})
        optimizer.step()
        return loss


def shared_out() -> list[Any]:
    """All pairs of networks and objectives; those that show nothing new of either are heavy."""
    networks, objectives, found = set(), set(), []
    for name, objective in fitting():
        is_new = name not in networks or objective not in objectives
        networks.add(name)
        objectives.add(objective)
        found.append(pytest.param((name, objective), marks=() if is_new else pytest.mark.heavy))
    return found


@pytest.fixture(params=fitting(), ids=lambda pair: "-".join(pair))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def test_every_objective_and_model_is_here() -> None:
    assert {objective for _, objective in fitting()} == set(OBJECTIVES)
    assert {NETWORKS[name][0] for name, _ in fitting()} == {"conv_vae", "ladder_vae"}


@pytest.mark.slow
@pytest.mark.parametrize("pair", shared_out(), ids=lambda pair: "-".join(pair))
def test_overfits_one_batch(pair: tuple[str, str]) -> None:
    case = Case(*pair)

    def error() -> float:
        with torch.no_grad():
            images = case.task.seen(case.batch["image"])
            found = (case.model.reconstruct(images) - images).square() * case.batch["valid"]
        return found.mean().item()

    optimizer, before = torch.optim.Adam(case.parameters(), 0.01), error()
    for step in range(120):
        assert case.step(step, optimizer).total.isfinite()
    assert error() < 0.4 * before


def test_a_package_gives_the_same_output(case: Case, tmp_path: Path) -> None:
    uri = str(tmp_path / "package")
    written = package.save(uri, model_name=case.model_name, model=case.model, task=case.task, card={})
    again = package.load(uri, case.task.kind)
    assert again == written
    task = config.from_dict(ImageReconstruction, again.task)
    assert task == case.task
    with torch.inference_mode():
        one, other = (
            owner.score(model, case.batch, Noise(1, -1, range(4)))
            for owner, model in ((case.task, case.model.eval()), (task, again.model()))
        )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=0)


def test_halves_of_a_batch_add_up_to_the_whole(case: Case) -> None:
    optimizer = torch.optim.SGD(case.parameters(), 1e-6)
    for step in range(3):  # what a companion carries is no longer what it began with
        case.step(step, optimizer)

    whole, *parts = losses = [case.loss(7, rows) for rows in (range(4), range(1), range(1, 4))]
    for name in ("total", "units"):
        added = sum(getattr(part, name).item() for part in parts)
        assert added == pytest.approx(getattr(whole, name).item(), rel=1e-4)
    gradients = [torch.autograd.grad(case.minimised(loss, whole), case.parameters()) for loss in losses]
    for both, one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one + other, both, rtol=1e-3, atol=1e-3 * max(1e-3, both.abs().max().item()))
    for name, both in {**whole.logs, **whole.sums}.items():
        parts_of = [{**part.logs, **part.sums}[name] for part in parts]
        torch.testing.assert_close(parts_of[0] + parts_of[1], both, rtol=1e-3, atol=1e-3)


def test_finite_in_bfloat16(case: Case) -> None:
    for step in (0, 30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = case.loss(step)
        assert loss.total.isfinite()
        gradients = torch.autograd.grad(case.minimised(loss, loss), case.parameters())
        assert all(found.isfinite().all() for found in gradients)


def test_every_parameter_has_a_part_in_the_loss(case: Case) -> None:
    """Or a wrapper that averages gradients over workers waits for those that never come."""
    loss = case.loss(30)
    gradients = torch.autograd.grad(case.minimised(loss, loss), case.parameters(), allow_unused=True)
    assert all(found is not None for found in gradients)


def test_a_wrong_shape_is_named(case: Case) -> None:
    with pytest.raises(RequestError, match="channels is 3, but images have 1"):
        case.model.infer(torch.rand(1, 1, *SIZE), None)
    gray = dataclasses.replace(case.task, channels=1)
    with pytest.raises(RequestError, match=r"Config.channels must be the 1 of ImageReconstruction.channels, got 3"):
        gray.loss(case.model, case.batch, Noise(1, 0, range(4)))
