"""What the commands of training share: their settings, and how a training is prepared and executed."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.commands import program
from jobs.console import say, warn
from jobs.failures import name_failures
from pipeline import config, storage
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation, Prepared, check_sources
from pipeline.distributed.session import require_gpu
from pipeline.errors import DONE, RequestError
from pipeline.quality.training_page import training_page
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.counts import RunCounts
from pipeline.runs.life import Life, outcome_of
from pipeline.storage import StorageConfig
from pipeline.submission import submission_id
from pipeline.task import Task


class Fit(Protocol):
    """Does a training and returns its summary, as `train.fit` does."""

    def __call__(
        self, plan: train.Plan, say: Callable[[str], None], check: Callable[[], None], *, cluster: ClusterConfig
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    out: str
    """Folder for the model package, its checkpoints, prepared samples and logs."""
    validation_fraction: float = 0.1
    """Fraction of the training inputs that is held out for validation, if the data have no validation split."""
    max_error_rate: float = 0.1
    """Do not train if a larger fraction of the training or of the validation inputs cannot be used, and more than
    error_floor of them."""
    error_floor: int = 3
    """Number of inputs that cannot be used up to which a training always begins."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a training on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        config.check(self, "validation_fraction", 0 < self.validation_fraction < 1, "be between 0 and 1")
        config.check(self, "max_error_rate", 0 <= self.max_error_rate <= 1, "be in [0, 1]")
        config.check(self, "error_floor", self.error_floor >= 0, "not be negative")
        config.check(self, "lease_s", self.lease_s > 0, "be positive")


def train_package(
    settings: TrainSettings,
    *,
    task: Task,
    model_name: str,
    model_config: Mapping[str, Any],
    train_config: train.DistributedTrainConfig,
    training: Preparation,
    validation: Preparation,
    data: dict[str, Any],
    copies: tuple[train.CopyWeights, ...] = (),
    fit: Fit = train.fit,
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """Prepare the samples, then train while holding the lease on ``settings.out``. Needs a Ray session. ``fit`` trains.
    Each of several ``sources`` must have something to learn.

    A finished training is found, and another training in ``settings.out`` refused, before anything is written. The
    samples are prepared before the lease is taken, so that a request that they refuse leaves nothing behind.
    """
    plan = train.Plan(
        task=task,
        model_name=model_name,
        model_config=dict(model_config),
        copies=copies,
        train=training.planned(),
        validation=validation.planned(),
        config=train_config,
        out=storage.canonical(settings.out),
        card={"data": data, "command": command_line(), "training": config.to_dict(train_config)},
    )
    finished = train.finished(plan)
    if finished is not None:
        say(f"{plan.out} is trained already with these settings")
        return finished
    if train_config.gpu:
        require_gpu(settings.cluster, "train.gpu")
    plan = dataclasses.replace(plan, **_prepared(task, training, validation, sources))
    life = Life(plan.out, f"training-{os.getpid()}", settings.lease_s, option="out")
    held = life.begin()
    if (submitted := submission_id()) is not None:
        say(f"training in {plan.out}, submitted as {submitted}")
    summary: dict[str, Any] = {}

    def work() -> None:
        _check_failures(settings, plan)
        summary.update(fit(plan, say, held.check, cluster=settings.cluster))

    outcome = life.work(work)
    summary |= outcome.summary()
    life.finish(storage.join(plan.out, "summary.json"), summary)
    for column, remark in summary.get("columns", {}).items():
        say(f"column {column}: {remark}")
    if outcome.exit_code == DONE:
        summary |= _drawn(plan, validation, summary)
    return summary


def _drawn(plan: train.Plan, validation: Preparation, summary: dict[str, Any]) -> dict[str, Any]:
    """The URI of the training's page. Without it the training is as good: whatever goes wrong here is a warning."""
    try:
        return {"report": training_page(plan.out, type(plan.task), plan.validation.load(), validation.inputs, summary)}
    except Exception as reason:
        warn(f"the page of the training could not be made: {outcome_of(reason).error}")
        return {}


def _prepared(
    task: Task, training: Preparation, validation: Preparation, sources: Sequence[str]
) -> dict[str, Prepared]:
    """The prepared samples, as fields of a plan. What was written is deleted if the request is refused."""
    try:
        found = training.prepare(), validation.prepare()
        for part, name in zip(found, (TRAINING, VALIDATION), strict=True):
            say(f"{part.rows} {name} samples")
            if part.left_out:
                say(f"{part.left_out} {name} inputs are not of the wanted split, or have none, and were left out")
            part.check_truth(task, name)
            if missing := part.missing_classes():
                warn(f"no {task.truth_unit} in the {name} labels: {', '.join(missing)}")
        if len(sources) > 1:
            check_sources(sources, found, task)
    except RequestError:
        training.discard()
        validation.discard()
        raise
    return dict(zip(("train", "validation"), found, strict=True))


def _check_failures(settings: TrainSettings, plan: train.Plan) -> None:
    """Name the inputs that cannot be used, and raise `ErrorBudgetSpent` if there are too many."""
    parts = ((TRAINING, plan.train), (VALIDATION, plan.validation))
    for name, part in parts:
        if part.failed:
            say(f"{sum(part.failed.values())} {name} inputs could not be used: {part.failed}")
    name_failures([(name, item) for name, part in parts for item in part.failures], plan.out)
    for _, part in parts:
        counts = RunCounts(done=part.inputs - sum(part.failed.values()), failed=sum(part.failed.values()))
        counts.errors.update(part.failed)
        counts.check_budget(settings.max_error_rate, settings.error_floor)


def command_line() -> str:
    """The command that this process runs, as one would type it again."""
    return shlex.join([*program(), *sys.argv[1:]])


def require_folder(uri: str, name: str) -> None:
    """`RequestError` unless the URI is a folder."""
    if not storage.is_folder(uri):
        raise RequestError(f"{name} {uri!r}: no such folder")
