"""The trainer on one device: it learns, resumes exactly, and knows when to stop."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import RequestError
from pipeline.noise import Noise
from pipeline.training.companion import Companion
from pipeline.training.losses import Batch, Loss
from pipeline.training.order import batch_indices, shuffled
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer, TrainingError
from pipeline.training.workers import Workers
from testing.toy import Line, LineConfig, LineTask, samples

CONFIG = TrainConfig(epochs=4, batch_rows=8, learning_rate=0.02, ema_decay=0.9, evaluate_every_epochs=2)


def trainer(config: TrainConfig = CONFIG, workers: Workers | None = None, count: int = 50) -> Trainer:
    torch.manual_seed(0)
    train = Samples([samples(count // 2), samples(0), samples(count - count // 2, 1)])
    return Trainer(LineTask(), Line(LineConfig()), config, train, Samples([samples(20, 2)]), workers=workers)


def test_it_learns() -> None:
    config = TrainConfig(epochs=60, batch_rows=8, learning_rate=0.03)
    learner = trainer(config)
    before = learner.evaluate()["error"]
    steps = list(learner.run())
    assert [step.step for step in steps] == list(range(1, 60 * 50 // 8 + 1))
    assert learner.best_metrics["error"] < 0.1 * before
    assert learner.best_metrics["error"] == min(s.metrics["error"] for s in steps if s.metrics)


def test_a_resumed_run_is_the_same_run() -> None:
    whole = trainer()
    losses = [step.losses["loss"] for step in whole.run()]
    first = trainer()
    part = []
    for step in first.run():
        part.append(step.losses["loss"])
        if step.step == 9:
            break
    tensors, plain = first.state()
    second = trainer()
    second.load_state(tensors, plain)
    part += [step.losses["loss"] for step in second.run()]
    assert part == losses
    for mine, theirs in zip(whole.state()[0].values(), second.state()[0].values(), strict=True):
        assert torch.equal(mine, theirs)


def test_batches_are_permutations_of_each_epoch() -> None:
    chain = np.concatenate([batch_indices(3, step, 4, 10) for step in range(5)])
    assert sorted(chain[:10]) == sorted(chain[10:]) == list(range(10))
    assert chain[:10].tolist() != chain[10:].tolist()
    assert batch_indices(3, 2, 4, 10).tolist() == chain[8:12].tolist()


@pytest.mark.parametrize("population", [1, 2, 3, 5, 64, 65, 1000])
def test_a_shuffle_of_places_is_a_permutation(population: int) -> None:
    places = np.arange(population)
    orders = [shuffled(places, population, key) for key in range(3)]
    assert all(sorted(order) == places.tolist() for order in orders)
    assert population < 64 or (np.mean(orders[0] == places) < 0.1 and np.mean(orders[0] == orders[1]) < 0.1)


def test_all_orders_of_a_few_samples_occur() -> None:
    orders = Counter(tuple(shuffled(np.arange(4), 4, key * 7919)) for key in range(2400))
    assert len(orders) == 24
    assert min(orders.values()) > 50
    assert max(orders.values()) < 160


def test_a_batch_of_a_billion_samples() -> None:
    """Memory for a list of them would be 8 GB."""
    picked = np.concatenate([batch_indices(0, step, 1000, 10**9) for step in (0, 5)])
    assert len(set(picked.tolist())) == 2000
    assert 4e8 < picked.mean() < 6e8
    chain = np.concatenate([batch_indices(1, step, 25_000, 10**5) for step in range(8)])
    assert sorted(chain[: 10**5].tolist()) == sorted(chain[10**5 :].tolist()) == list(range(10**5))
    assert chain[: 10**5].tolist() != chain[10**5 :].tolist()


def test_noise_belongs_to_the_sample() -> None:
    together = Noise(1, 5, [7, 8, 9]).normal(2, 3)
    apart = torch.cat([Noise(1, 5, [sample]).normal(2, 3) for sample in (7, 8, 9)])
    assert torch.equal(together, apart)
    others = [Noise(2, 5, [7]), Noise(1, 6, [7]), Noise(1, 5, [8])]
    assert all(not torch.equal(other.normal(2, 3), apart[:1]) for other in others)


def test_patience_ends_training_early() -> None:
    config = TrainConfig(epochs=50, batch_rows=8, learning_rate=1e-9, ema_decay=0.0, patience=2)
    learner = trainer(config)
    steps = list(learner.run())
    assert len(steps) < 50 * 50 // 8
    assert learner.evaluations_since_best == 2


def test_a_loss_that_is_no_number_stops_with_a_reason() -> None:
    learner = trainer()
    with torch.no_grad():
        learner.model.net[0].weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        next(learner.run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "TrainConfig.epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "TrainConfig.learning_rate must be positive, got -1.0"),
        ({"ema_decay": 1.0}, r"TrainConfig.ema_decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TrainConfig(**settings)


def test_parameters_learn_as_fast_as_they_may() -> None:
    def moved(rates: dict[str, float]) -> dict[str, float]:
        torch.manual_seed(0)
        model = Line(LineConfig())
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        config = TrainConfig(epochs=1, batch_rows=8, learning_rate=0.01, weight_decay=0.0, warmup_fraction=0.0)
        learner = Trainer(LineTask(), model, config, Samples([samples(8)]), Samples([samples(4, 2)]), rates=rates)
        list(learner.run())
        return {name: (found.detach() - before[name]).abs().max().item() for name, found in model.named_parameters()}

    plain = moved({})
    name, *others = plain
    slow, frozen = moved({name: 0.1}), moved({name: 0.0})
    assert slow[name] == pytest.approx(0.1 * plain[name], rel=1e-3), "one step of Adam is as long as its rate"
    assert frozen[name] == 0
    assert all(slow[other] == pytest.approx(plain[other], rel=1e-3) for other in others)
    assert all(frozen[other] > 0 for other in others)


def test_a_resumed_run_keeps_the_rates() -> None:
    def learner() -> Trainer:
        torch.manual_seed(0)
        model, train = Line(LineConfig()), Samples([samples(50)])
        names = [name for name, _ in model.named_parameters()]
        rates = {names[0]: 0.0, names[1]: 0.1}
        return Trainer(LineTask(), model, CONFIG, train, Samples([samples(20, 2)]), rates=rates)

    whole, first, second = learner(), learner(), learner()
    list(whole.run())
    list(itertools.islice(first.run(), 9))
    second.load_state(*first.state())
    list(second.run())
    mine, theirs = whole.state()[0], second.state()[0]
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class Rival(Companion):
    """Pushes the line's outputs towards a running mean of theirs, with a weight of its own."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1))
        self.register_buffer("mean", torch.zeros(1))

    def loss(self, model: torch.nn.Module, batch: Batch, noise: Noise) -> Loss:
        plain = LineTask().loss(model, batch, noise)
        outputs = model(batch["x"])
        pull = (self.weight * (outputs - self.mean)).square().sum()
        return Loss(
            total=plain.total + pull, units=plain.units, logs={"pull": pull}, sums={"mean": outputs.sum()[None]}
        )

    def couple(self, shares: dict, means: dict, units: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return 2 * (means["mean"].float() * shares["mean"]).sum(), {"squared_mean": means["mean"].square().sum()}

    def absorb(self, means: dict[str, torch.Tensor]) -> None:
        self.mean.lerp_(means["mean"].float(), 0.5)


class RivalTask(LineTask):
    def companion(self, model: torch.nn.Module) -> Companion:
        return Rival()


def rival_trainer() -> Trainer:
    torch.manual_seed(0)
    train = Samples([samples(50)])
    return Trainer(RivalTask(), Line(LineConfig()), CONFIG, train, Samples([samples(20, 2)]))


def test_a_companion_learns_and_resumes_with_the_model() -> None:
    whole = rival_trainer()
    losses = [step.losses for step in whole.run()]
    assert losses[0]["loss"] > losses[0]["pull"] + losses[0]["squared_mean"] > 0
    assert isinstance(whole.companion, Rival)
    assert whole.companion.weight.item() != pytest.approx(0.1), "it is trained"
    assert whole.companion.mean.item() != 0, "it takes in the means of the global batches"
    first = rival_trainer()
    part = [step.losses for step in itertools.islice(first.run(), 9)]
    second = rival_trainer()
    second.load_state(*first.state())
    part += [step.losses for step in second.run()]
    assert part == losses
    mine, theirs = whole.state()[0], second.state()[0]
    assert {name for name in mine if "companion" in name} >= {"companion.weight", "companion.mean"}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert set(whole.best_model().state_dict()) == set(Line(LineConfig()).state_dict()), (
        "a package holds the model only"
    )


class _Renewing(LineTask):
    """Sets its model's weights back before step 5."""

    def renew(self, model: nn.Module, step: int, steps: int, seed: int) -> list[str]:
        if step != 5:
            return []
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return [name for name, _ in model.named_parameters()]


def test_renewed_parameters_have_no_past() -> None:
    learner = trainer()
    learner.task = _Renewing()
    for progress in learner.run():
        if progress.step == 5:
            learner.best, learner.best_metrics = {"weight": torch.ones(1)}, {"error": 0.0}
        if progress.step == 6:
            break
    assert learner.best_metrics == {}
    assert {int(state["step"]) for state in learner.optimizer.state.values()} == {1}
    for own, average in zip(learner.model.parameters(), learner.average.parameters(), strict=True):
        # One step of Adam, and the average has followed from the new first value, 0.
        assert own.abs().max() <= 0.02
        assert (average.abs() <= own.abs() + 1e-9).all()


@pytest.mark.parametrize("stop", [4, 5, 6])
def test_a_resumed_run_renews_at_the_same_step(stop: int) -> None:
    def renewing() -> Trainer:
        learner = trainer()
        learner.task = _Renewing()
        return learner

    whole = renewing()
    losses = [step.losses["loss"] for step in whole.run()]
    first, second = renewing(), renewing()
    part = []
    for step in first.run():
        part.append(step.losses["loss"])
        if step.step == stop:
            break
    second.load_state(*first.state())
    assert part + [step.losses["loss"] for step in second.run()] == losses
    for mine, theirs in zip(whole.state()[0].values(), second.state()[0].values(), strict=True):
        assert torch.equal(mine, theirs)
