"""What jobs of one kind share: a segmentation run, and a training, from settings to summary."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jobs.cli import DONE, ERROR_BUDGET, FAILED, Stopped, one_line, say
from pipeline import config, package, storage
from pipeline.distributed import train
from pipeline.distributed.lease import LeaseLost
from pipeline.distributed.run import ErrorBudgetSpent, Run, RunConfig, StreamStalled
from pipeline.distributed.samples import Prepared
from pipeline.distributed.session import ClusterConfig, session
from pipeline.distributed.stream import StreamConfig
from pipeline.errors import RequestError
from pipeline.quality.report import run_report
from pipeline.storage import StorageConfig
from pipeline.task import Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(RunConfig):
    source: list[str] | str
    """What to read: a folder, a glob, a file, an archive (tar, JSONL, Parquet) or a manifest (Parquet, CSV or JSONL
    with a uri column); local, s3:// or any fsspec URI. May be given several times."""
    model: str
    """Model package to segment with."""
    sink: str
    """Where the table is or will be: SINK/table and SINK/runs."""
    dry_run: bool = False
    """Only say what would be done and how long it would take; write nothing that stays."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        config.check(self, "source", bool(self.source), "name at least one source")


def segment(settings: SegmentSettings, task_class: type[Task], overrides: dict[str, Any]) -> dict[str, Any]:
    """Stream a source through a package into a table. ``overrides``: task settings of this run that are not None."""
    described = package.load(settings.model, task_class.kind)
    changed = {name: value for name, value in overrides.items() if value is not None}
    task = config.from_dict(task_class, described.task | changed)
    described.model()  # a package that is broken, or of another version, is a wrong request, before anything is written
    run = Run(
        task=task,
        package=described,
        sources=[settings.source] if isinstance(settings.source, str) else settings.source,
        sink=settings.sink,
        config=pick(RunConfig, settings),
        stream=settings.stream,
        say=say,
    )
    status, code, error = "done", DONE, None
    with session(settings.cluster):
        if settings.dry_run:
            run.forecast()
            low, high = run.summary["predicted_range"]
            say(f"about {run.summary['predicted_seconds']:.0f} s, between {low:.0f} and {high:.0f} s")
            return run.summary | {"status": "dry run"}
        try:
            run.execute()
        except ErrorBudgetSpent as reason:
            status, code, error = "error budget spent", ERROR_BUDGET, str(reason)
        except StreamStalled as reason:
            status, code, error = "stalled", FAILED, str(reason)
        except LeaseLost as reason:
            status, code, error = "lease lost", FAILED, str(reason)
        except Stopped as reason:
            status, code, error = "stopped", reason.exit_code, str(reason)
        except RequestError:
            raise
        except Exception as reason:  # whatever it is, the run's summary must carry the exit code
            traceback.print_exc()
            status, code, error = "failed", FAILED, f"{type(reason).__name__}: {one_line(reason)}"
        if error is not None:
            run.summary["error"] = error
        run.finish(status, code)
        if code == DONE:
            run.summary["report"] = run_report(run.folder, run.examples, run.summary)
    return run.summary


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    out: str
    """Where the model package goes, with checkpoints, prepared samples and logs beside it."""
    validation_fraction: float = 0.1
    """Share of the training inputs that is held out to choose by, where the data name no validation split."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        config.check(self, "validation_fraction", 0 < self.validation_fraction < 1, "be between 0 and 1")


def fit(
    *,
    out: str,
    task: Task,
    model_name: str,
    model_config: Any,
    train_config: train.DistributedTrainConfig,
    samples: Callable[[], tuple[Prepared, Prepared]],
    data: dict[str, Any],
    copies: tuple[train.CopyWeights, ...] = (),
) -> dict[str, Any]:
    """Prepare the samples and train. Needs a session."""
    prepared, validation = samples()
    say(f"{prepared.rows} training samples, {validation.rows} for validation")
    for name, part in (("training", prepared), ("validation", validation)):
        if part.failed:
            say(f"{sum(part.failed.values())} {name} inputs could not be used: {part.failed}")
    command = " ".join(["python", "-m", f"jobs.{sys.argv[0].rsplit('/', 1)[-1].removesuffix('.py')}", *sys.argv[1:]])
    plan = train.Plan(
        task=task,
        model_name=model_name,
        model_config=config.to_dict(model_config),
        copies=copies,
        train=prepared,
        validation=validation,
        config=train_config,
        out=storage.canonical(out),
        card={"data": data, "command": command, "training": config.to_dict(train_config)},
    )
    return train.fit(plan, say)


def pick(cls: type[T], settings: Any) -> T:
    """The part of flat settings that belongs to one of their base classes."""
    return cls(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(cls)})  # type: ignore[arg-type]


def require_folder(uri: str, name: str) -> None:
    """`RequestError` unless the URI is a folder."""
    if not storage.is_folder(uri):
        raise RequestError(f"{name} {uri!r}: no such folder")
