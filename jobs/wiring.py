"""What jobs share: the settings of segmentation runs and of trainings, and how these are executed."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.commands import program
from jobs.console import CONSOLE, say, warn
from jobs.failures import name_failures
from pipeline import config, package, storage
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation, Prepared
from pipeline.distributed.run import Run, RunConfig, RunPlan
from pipeline.distributed.session import require_gpu, session
from pipeline.distributed.stages import StreamConfig
from pipeline.errors import DONE, RequestError
from pipeline.images.task import ImageSegmentation
from pipeline.quality.comparison import compare
from pipeline.quality.pilot_page import pilot_page
from pipeline.quality.report import Described, run_report
from pipeline.quality.training_page import training_page
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.counts import RunCounts
from pipeline.runs.life import Life, outcome_of, store_json
from pipeline.runs.pilots import COMPARISON, newest_config, pilot_sink
from pipeline.source.selection import Selection
from pipeline.storage import StorageConfig
from pipeline.submission import submission_id
from pipeline.table.lease import check_place
from pipeline.table.names import run_name
from pipeline.table.queries import inputs_where
from pipeline.table.upkeep import forgotten_inputs
from pipeline.task import Task

T = TypeVar("T")

_SIGNALS = 128  # exit codes from which on a signal has ended the job, and nothing more is to be done


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(RunConfig):
    source: list[str] | str
    """Inputs to read: a folder, a glob, a file, an archive (tar, JSONL, Parquet) or a manifest (Parquet, CSV or JSONL
    with a column uri); local, s3:// or any fsspec URI. Can be given several times."""
    model: str
    """URI of the model package."""
    sink: str
    """URI for the output: the table is SINK/table, and each run has a folder below SINK/runs."""
    dry_run: bool = False
    """Only report what the run would do and how long it would take; write nothing that stays."""
    sample: int | None = None
    """Take only so many of the inputs, drawn at random, the same ones each time; null: all."""
    where: str | None = None
    """Take only inputs whose rows in the table meet this SQL condition, such as "confidence < 0.5"."""
    since: str | None = None
    """Take only inputs that were written at this time or later, by the listing: 2026-11-30, or 2026-11-30T18:00."""
    until: str | None = None
    """Take only inputs that were written before this time, by the listing."""
    compare: bool = False
    """Write to a table of its own, SINK/pilots/NAME, and compare its rows with the current ones of the same inputs. The
    command accept makes them current."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        config.check(self, "source", bool(self.source), "name at least one source")
        config.check(self, "sample", self.sample is None or self.sample >= 1, "be at least 1, or null")
        config.check(self, "compare", not (self.compare and self.dry_run), "not be given with dry_run")
        check_moments(self)


def segment(settings: SegmentSettings, task_class: type[Task], overrides: dict[str, Any]) -> dict[str, Any]:
    """Segment a source into a table. ``overrides`` are settings of the task; those that are None are not changed."""
    plan = run_plan(settings, task_class, overrides)
    if settings.compare:
        with connected(settings):
            return pilot(plan)
    run = Run(plan, CONSOLE)
    with connected(settings):
        if settings.dry_run:
            found = run.forecast()
            low, high = found["predicted_range"]
            say(f"about {found['predicted_seconds']:.0f} s, between {low:.0f} and {high:.0f} s")
            return found | {"status": "dry run"}
        return live(run)


def run_plan(settings: SegmentSettings, task_class: type[Task], overrides: dict[str, Any]) -> RunPlan:
    """The run that settings ask for. `RequestError` before anything is written."""
    described = package.load(settings.model, task_class.kind)
    changed = {name: value for name, value in overrides.items() if value is not None}
    check_place(settings.sink, "sink")
    described.model()  # loaded now, so that a broken package is a wrong request, before anything is written
    return RunPlan(
        task=config.from_dict(task_class, described.task | changed),
        package=described,
        sources=(settings.source,) if isinstance(settings.source, str) else tuple(settings.source),
        sink=settings.sink,
        config=pick(RunConfig, settings),
        stream=settings.stream,
        cluster=settings.cluster,
        selection=Selection(
            since=moment(settings.since),
            until=moment(settings.until),
            among=None if settings.where is None else inputs_where(settings.sink, settings.where),
            without=forgotten_inputs(settings.sink),
            sample=settings.sample,
        ),
    )


@contextmanager
def connected(settings: SegmentSettings) -> Iterator[None]:
    """A session for runs of these settings."""
    with session(settings.cluster):
        if settings.stream.device == "gpu":
            require_gpu(settings.cluster, "stream.device 'gpu'")
        yield


def live(run: Run) -> dict[str, Any]:
    """Do a run; returns its summary, with the URI of its report if there is one. Needs an open session."""
    outcome = run.live()
    summary = run.summary
    has_rows = bool(summary["done"] + summary["failed"])
    if outcome.exit_code == DONE or (has_rows and outcome.exit_code < _SIGNALS):
        summary |= _reported(run, summary)
    return summary


def pilot(plan: RunPlan) -> dict[str, Any]:
    """Do a run in a table of its own, ``SINK/pilots/NAME``, and compare its rows with the current ones of the same
    inputs. Returns the summary of the run, with the name of the pilot and what was found. Needs an open session."""
    old = newest_config(plan.sink, other_than=plan.package.digest) or newest_config(plan.sink)
    if old is None:
        raise RequestError(f"compare: sink {plan.sink!r} has no earlier run to compare with")
    name = run_name("")
    folder = pilot_sink(plan.sink, name)
    run = Run(dataclasses.replace(plan, sink=folder), CONSOLE)
    summary = live(run) | {"pilot": name}
    if summary["exit_code"] != DONE:
        return summary
    say("comparing its rows with the current ones")
    known = (old.get("task", {}), config.to_dict(plan.task))
    classes = [tuple(task["classes"]) if "classes" in task else None for task in known]
    found = compare(plan.sink, folder, classes=(classes[0], classes[1]))
    about = {
        "model": plan.package.digest,
        "settings": plan.settings,
        "package": plan.package.uri,
        "old_model": old.get("digest"),
        "sink": plan.sink,
    }
    store_json(storage.join(folder, COMPARISON), about | {"found": found.found})
    storage.write(storage.join(folder, "comparison.parquet"), parquet_bytes(found.pairs))
    task = plan.task
    page = pilot_page(
        folder,
        found,
        old_sink=plan.sink,
        about={"pilot": name, **about},
        palette=task.palette if isinstance(task, ImageSegmentation) else None,
        max_pixels=task.max_pixels if isinstance(task, ImageSegmentation) else 0,
    )
    return summary | {"compared": found.found, "report": page}


def _reported(run: Run, summary: dict[str, Any]) -> dict[str, Any]:
    """The URI of the run's page. Without it the run is as good: whatever goes wrong here is a warning."""
    stream = run.plan.stream
    described = Described(
        sink=storage.canonical(run.plan.sink),
        run_id=run.run_id,
        task=run.plan.task,
        timeline=run.timeline.described(),
        device=stream.device,
        fetch_threads=stream.fetch.threads,
        block_rows=stream.block_rows,
    )
    try:
        return {"report": run_report(described, summary)}
    except Exception as reason:
        warn(f"the report of the run could not be made: {outcome_of(reason).error}")
        return {}


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
) -> dict[str, Any]:
    """Prepare the samples, then train while holding the lease on ``settings.out``. Needs a Ray session.

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
    plan = dataclasses.replace(plan, **_prepared(task, training, validation))
    life = Life(plan.out, f"training-{os.getpid()}", settings.lease_s, option="out")
    held = life.begin()
    if (submitted := submission_id()) is not None:
        say(f"training in {plan.out}, submitted as {submitted}")
    summary: dict[str, Any] = {}

    def work() -> None:
        _check_failures(settings, plan)
        summary.update(train.fit(plan, say, held.check, cluster=settings.cluster))

    outcome = life.work(work)
    summary |= outcome.summary()
    life.finish(storage.join(plan.out, "summary.json"), summary)
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


def _prepared(task: Task, training: Preparation, validation: Preparation) -> dict[str, Prepared]:
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


def check_moments(settings: Any) -> None:
    """`RequestError` unless ``since`` and ``until`` of some settings are null, or times."""
    for name in ("since", "until"):
        try:
            moment(getattr(settings, name))
        except ValueError:
            config.check(settings, name, False, "be a date or a time in the form of ISO 8601")


def moment(text: str | None) -> datetime | None:
    """A date or a time of ISO 8601. Without a zone it is that of this machine. `ValueError` for anything else."""
    return None if text is None else datetime.fromisoformat(text).astimezone()


def parquet_bytes(rows: pa.Table) -> bytes:
    pq.write_table(rows, (buffer := io.BytesIO()))
    return buffer.getvalue()


def command_line() -> str:
    """The command that this process runs, as one would type it again."""
    return shlex.join([*program(), *sys.argv[1:]])


def pick(cls: type[T], settings: Any) -> T:
    """Make an object of a base class of ``settings``, with the values of its fields."""
    return cls(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(cls)})  # type: ignore[arg-type]


def require_folder(uri: str, name: str) -> None:
    """`RequestError` unless the URI is a folder."""
    if not storage.is_folder(uri):
        raise RequestError(f"{name} {uri!r}: no such folder")
