"""What the commands of segmentation share: their settings, and how a run, a dry run and a pilot are executed."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.parquet as pq
from torch import nn

from jobs.console import CONSOLE, say, warn
from pipeline import config, package, storage
from pipeline.distributed.engine_trial import decided
from pipeline.distributed.run import Run
from pipeline.distributed.session import require_gpu, session
from pipeline.engines import engines_of
from pipeline.errors import DONE, RequestError
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.earlier import newest_config
from pipeline.runs.life import outcome_of, store_json
from pipeline.runs.pilots import COMPARISON, pilot_sink
from pipeline.runs.plan import RunConfig, RunPlan, StreamConfig
from pipeline.source.selection import Selection
from pipeline.storage import StorageConfig
from pipeline.table.lease import check_place
from pipeline.table.names import run_name
from pipeline.table.queries import inputs_where
from pipeline.table.upkeep import forgotten_inputs
from pipeline.task import Task

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


def segment(settings: SegmentSettings, task_classes: Sequence[type[Task]], overrides: dict[str, Any]) -> dict[str, Any]:
    """Segment a source into a table, by a package of one of some tasks. ``overrides`` are settings of the task; those
    that are None are not changed."""
    plan = run_plan(settings, task_classes, overrides)
    if settings.compare:
        with connected(settings):
            return pilot(decided(plan, say))
    run = Run(plan, CONSOLE)  # checks the request
    with connected(settings):
        if plan.stream.engine == "auto":
            run = Run(decided(plan, say), CONSOLE)
        if settings.dry_run:
            found = run.forecast()
            low, high = found["predicted_range"]
            say(f"about {found['predicted_seconds']:.0f} s, between {low:.0f} and {high:.0f} s")
            return found | {"status": "dry run"}
        return live(run)


def run_plan(settings: SegmentSettings, task_classes: Sequence[type[Task]], overrides: dict[str, Any]) -> RunPlan:
    """The run that settings ask for. `RequestError` before anything is written."""
    described = package.load(settings.model, *(task.kind for task in task_classes))
    task_class = next(task for task in task_classes if task.kind == described.kind)
    changed = {name: value for name, value in overrides.items() if value is not None}
    check_place(settings.sink, "sink")
    model = described.model()  # loaded now, so that a broken package is a wrong request, before anything is written
    check_engine(settings.stream, model)
    return RunPlan(
        task=config.from_dict(task_class, described.task | changed),
        package=described,
        sources=(settings.source,) if isinstance(settings.source, str) else tuple(settings.source),
        sink=settings.sink,
        config=RunConfig(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(RunConfig)}),
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


def check_engine(stream: StreamConfig, model: nn.Module) -> None:
    """`RequestError` if the model cannot be run in the engine that is asked for."""
    known = engines_of(model)
    rule = f"be auto or {' or '.join(known)} for a {type(model).__name__}, which runs in no other"
    config.check(stream, "engine", stream.engine == "auto" or stream.engine in known, rule)


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
    from pipeline.quality.comparison import compare  # here, so that other runs begin a quarter of a second earlier
    from pipeline.quality.pilot_page import pilot_page

    old = newest_config(plan.sink)
    if not old:
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
    pq.write_table(found.pairs, (pairs := io.BytesIO()))
    storage.write(storage.join(folder, "comparison.parquet"), pairs.getvalue())
    page = pilot_page(folder, found, run=run.folder, task=plan.task, about={"pilot": name, **about})
    return summary | {"compared": found.found, "report": page}


def _reported(run: Run, summary: dict[str, Any]) -> dict[str, Any]:
    """The URI of the run's page. Without it the run is as good: whatever goes wrong here is a warning."""
    from pipeline.quality.report import Described, run_report  # here, since it takes time, and workers work meanwhile

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
