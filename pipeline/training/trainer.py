"""Training on one device, in plain torch. Several workers share a batch through a `Workers` object; see there.

A global batch is a function of (seed, step) alone, random numbers belong to samples (`pipeline.task.Noise`), and losses
are divided by the global number of units, so the result does not depend on how many workers share the batch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import JobFailed
from pipeline.noise import Noise, ReservedStep
from pipeline.task import Task
from pipeline.training.companion import Companion
from pipeline.training.losses import Batch, Loss, Statistics
from pipeline.training.optimiser import AveragedWeights, parameter_groups, schedule
from pipeline.training.order import batch_indices
from pipeline.training.samples import Samples
from pipeline.training.workers import Workers, _share

# Enough for a percentile; on a CPU, as many large images are a matter of a minute or two.
_CALIBRATION_SAMPLES = 2_000
_LEARNED_SAMPLES = 200
# A companion's parameters work against the model's: little momentum, as is usual for discriminators.
_COMPANION_BETAS = (0.5, 0.99)


class TrainingError(JobFailed):
    """Training cannot go on (the loss is not a number, say)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    epochs: int = 30
    """Passes over the training samples."""
    batch_rows: int = 16
    """Samples in one global batch, whatever the number of workers."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up, then a cosine to zero."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices and filters only."""
    warmup_fraction: float = 0.05
    """Part of all steps in which the learning rate rises."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are the ones evaluated and saved."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Autocast to bfloat16 or stay in float32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and noise."""
    evaluate_every_epochs: int = 1
    """Epochs between evaluations on the validation samples."""
    patience: int | None = None
    """Stop after so many evaluations without a better metric."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows", "evaluate_every_epochs"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "learning_rate", self.learning_rate > 0, "be positive")
        check(self, "weight_decay", self.weight_decay >= 0, "not be negative")
        check(self, "warmup_fraction", 0 <= self.warmup_fraction < 1, "be in [0, 1)")
        check(self, "clip_norm", self.clip_norm > 0, "be positive")
        check(self, "ema_decay", 0 <= self.ema_decay < 1, "be in [0, 1)")
        check(self, "patience", self.patience is None or self.patience >= 1, "be at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """After a step: where training stands. ``metrics`` only right after an evaluation."""

    step: int
    steps: int
    epoch: float
    losses: dict[str, float]
    samples_per_s: float
    learning_rate: float
    metrics: dict[str, float] | None = None
    best: bool = False


class Trainer:
    """Trains one model for one task. `run` yields after every step; `state` and `load_state` make it resumable.

    ``rates`` are factors on the learning rates of parameters, by their names; with 0 a parameter does not change.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        config: TrainConfig,
        train: Samples,
        validation: Samples,
        device: torch.device | None = None,
        workers: Workers | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.task, self.config, self.train, self.validation = task, config, train, validation
        self.device = device or torch.device("cpu")
        self.workers = workers or Workers()
        self.model = model.to(self.device)
        self._averaged = AveragedWeights(self.model, config.ema_decay)
        self.average = self._averaged.model
        factors = {name: (rates or {}).get(name, 1.0) for name, _ in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and factors[name] > 0)
        self.companion = task.companion(self.model)
        if self.companion is not None:
            self.companion.to(self.device)
        self.batch_rows = min(config.batch_rows, len(train))
        self.steps = max(1, config.epochs * len(train) // self.batch_rows)
        self.step = 0
        self.best: dict[str, Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        self.evaluations_since_best = 0
        if config.compile:
            self.model.compile()
        self._objective = self.workers.wrap(_Objective(task, self.model, self.companion))
        groups: list[dict[str, Any]] = []
        for factor in sorted(set(factors.values())):
            alike = (parameter for name, parameter in self.model.named_parameters() if factors[name] == factor)
            groups += [group | {"factor": factor} for group in parameter_groups(alike, config.weight_decay)]
        beside = list(self.companion.parameters()) if self.companion is not None else []
        groups += [{"params": beside, "weight_decay": 0.0, "betas": _COMPANION_BETAS}] if beside else []
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)

    def run(self) -> Iterator[Progress]:
        """Train from the current step to the end, yielding after every step."""
        per_evaluation = max(1, round(self.config.evaluate_every_epochs * len(self.train) / self.batch_rows))
        started, first_step = time.monotonic(), self.step
        with ThreadPoolExecutor(1, "collate") as ahead:
            pending = ahead.submit(self._batch, self.step)
            while self.step < self.steps and not self._out_of_patience():
                batch, samples = pending.result()
                pending = ahead.submit(self._batch, self.step + 1)
                losses, rate = self._update(batch, samples)
                self.step += 1
                elapsed = time.monotonic() - started
                progress = {
                    "step": self.step,
                    "steps": self.steps,
                    "epoch": self.step * self.batch_rows / len(self.train),
                    "losses": losses,
                    "samples_per_s": (self.step - first_step) * self.batch_rows / max(elapsed, 1e-9),
                    "learning_rate": rate,
                }
                if self.step % per_evaluation == 0 or self.step == self.steps:
                    metrics, best = self._evaluate_and_keep()
                    progress |= {"metrics": metrics, "best": best}
                yield Progress(**progress)

    def evaluate(self) -> dict[str, float]:
        """Metrics of the averaged weights on the validation samples."""
        rows = _share(np.arange(len(self.validation)), self.workers)
        with self._autocast():
            total = statistics(
                self.task, self.average, self.validation, rows, self.batch_rows, self.config.seed, self.device
            )
        if self.workers.size > 1:
            total = self._sum_statistics(total)
        return self.task.summarize(total)

    def best_model(self) -> nn.Module:
        """The averaged weights at the best evaluation, on the CPU."""
        model = copy.deepcopy(self.average).cpu()
        model.load_state_dict(self.best)
        return model.eval()

    def calibrated_task(self, model: nn.Module) -> Task:
        """The task as it goes into the package with this model: `Task.calibrated` on the first validation samples."""
        return calibrated_task(self.task, model, self.validation, self.train, self.batch_rows)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs, as flat tensors and plain values."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        if self.companion is not None:
            tensors |= {f"companion.{k}": v for k, v in self.companion.state_dict().items()}
        for name, parameter in self._named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        plain = {
            "step": self.step,
            "best_metrics": self.best_metrics,
            "evaluations_since_best": self.evaluations_since_best,
        }
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, plain

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """The inverse of `state`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        self.best = part("best.")
        if self.companion is not None:
            self.companion.load_state_dict(part("companion."))
        for name, parameter in self._named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimizer.{key}.{name}")
                if value is not None:
                    where = "cpu" if key == "step" else self.device
                    self.optimizer.state[parameter][key] = value.to(where)
        self.step = plain["step"]
        self.best_metrics = plain["best_metrics"]
        self.evaluations_since_best = plain["evaluations_since_best"]

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All that the optimizer moves, by the names that checkpoints use."""
        beside = [] if self.companion is None else self.companion.named_parameters(prefix="companion")
        return [*self.model.named_parameters(), *beside]

    def _batch(self, step: int) -> tuple[Batch, np.ndarray]:
        if step >= self.steps:
            return {}, np.empty(0, np.int64)
        samples = _share(batch_indices(self.config.seed, step, self.batch_rows, len(self.train)), self.workers)
        return self.task.collate(self.train.take(samples)), samples

    def _update(self, batch: Batch, samples: np.ndarray) -> tuple[dict[str, float], float]:
        self._forget(self.task.renew(self.model, self.step, self.steps, self.config.seed))
        rate = self.config.learning_rate * schedule(self.step, self.steps, self.config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        noise = Noise(self.config.seed, self.step, samples, self.steps)
        self.model.train()
        batch = self.task.augment(self._to_device(batch), noise)
        with self._autocast():
            total, units, logs, sums = self._objective(batch, noise)
        shown = [units, total, *logs.values()]
        added = torch.cat([value.detach().double().flatten() for value in (*shown, *sums.values())])
        added = self.workers.sum(added)
        units_sum, means, coupled = added[0].clamp(min=1e-12), {}, {}
        loss = total / units_sum.float()
        if self.companion is not None:
            parts = (added[len(shown) :] / units_sum).split([len(value) for value in sums.values()])
            means = dict(zip(sums, parts, strict=True))
            shares = {name: value / units_sum.float() for name, value in sums.items()}
            carrier, coupled = self.companion.couple(shares, means, float(units_sum))
            loss = loss if carrier is None else loss + carrier
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over workers, so the sum over workers needs the factor.
        (loss * self.workers.size).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self.companion is not None:
            nn.utils.clip_grad_norm_(list(self.companion.parameters()), self.config.clip_norm)
            self.companion.absorb(means)
        self.optimizer.step()
        self._averaged.update(self.step)
        values = (added[: len(shown)] / units_sum).tolist()
        losses = dict(zip(["loss", *logs], values[1:], strict=True)) | {k: float(v) for k, v in coupled.items()}
        losses["loss"] += sum(losses[name] for name in coupled)
        if not math.isfinite(losses["loss"]):
            raise TrainingError(f"the loss is {losses['loss']} at step {self.step}; lower train.learning_rate")
        return losses, rate

    def _forget(self, renewed: list[str]) -> None:
        """Forget what is known of parameters that have new first values: their momentum, their averages, and the best
        weights so far, which belong to the old ones."""
        if not renewed:
            return
        own, average = (dict(model.named_parameters()) for model in (self.model, self.average))
        for name in renewed:
            self.optimizer.state.pop(own[name], None)
            average[name].copy_(own[name].detach())
        self.best, self.best_metrics, self.evaluations_since_best = {}, {}, 0

    def _evaluate_and_keep(self) -> tuple[dict[str, float], bool]:
        metrics = self.evaluate()
        name, way = self.task.metric
        sign = 1 if way == "max" else -1
        best = not self.best_metrics or sign * metrics[name] > sign * self.best_metrics[name]
        if best:
            self.best_metrics = metrics
            self.best = {key: value.detach().cpu().clone() for key, value in self.average.state_dict().items()}
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        return metrics, best

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.evaluations_since_best >= self.config.patience

    def _sum_statistics(self, total: Statistics) -> Statistics:
        # A worker whose share is empty has no names; one sample's statistics, times zero, have them all.
        batch = self._to_device(self.task.collate(self.validation.take([0])))
        with torch.inference_mode():
            template = self.task.score(self.average, batch, Noise(self.config.seed, ReservedStep.VALIDATION, [0]))
        return {
            name: self.workers.sum(total.get(name, torch.zeros_like(value)).clone())
            for name, value in sorted(template.items())
        }

    def _to_device(self, batch: Batch) -> Batch:
        return _to_device(batch, self.device)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def statistics(
    task: Task, model: nn.Module, samples: Samples, rows: np.ndarray, batch_rows: int, seed: int, device: torch.device
) -> Statistics:
    """The sum of `Task.score` over the samples of some indices; empty if there are none."""
    total: Statistics = {}
    for start in range(0, len(rows), batch_rows):
        part = rows[start : start + batch_rows]
        batch = _to_device(task.collate(samples.take(part)), device)
        with torch.inference_mode():
            for name, value in task.score(model, batch, Noise(seed, ReservedStep.VALIDATION, part)).items():
                total[name] = total.get(name, torch.zeros_like(value)) + value
    return total


def calibrated_task(task: Task, model: nn.Module, validation: Samples, train: Samples, batch_rows: int) -> Task:
    """The task as it goes into the package with this model: `Task.calibrated` on the first validation samples and on
    some of the training samples."""

    def batches(samples: Samples, places: np.ndarray) -> Iterator[pa.Table]:
        return (samples.take(places[start : start + batch_rows]) for start in range(0, len(places), batch_rows))

    first = np.arange(min(len(validation), _CALIBRATION_SAMPLES))
    count = min(len(train), _LEARNED_SAMPLES)
    spread = np.linspace(0, len(train) - 1, count).astype(np.int64)
    return task.calibrated(model, batches(validation, first), batches(train, spread))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class _Objective(nn.Module):
    """The task's loss as a module, so that a wrapper around it sees forward and backward."""

    def __init__(self, task: Task, model: nn.Module, companion: Companion | None) -> None:
        super().__init__()
        self.task, self.model, self.companion = task, model, companion

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        owner = self.task if self.companion is None else self.companion
        loss: Loss = owner.loss(self.model, batch, noise)
        return loss.total, loss.units, {name: value.detach() for name, value in loss.logs.items()}, loss.sums
