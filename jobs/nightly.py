"""Nightly: segment what is new in several sources, one after the other, unattended."""

from __future__ import annotations

import dataclasses
import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPException
from typing import Any, Literal

from jobs.cli import main
from jobs.console import CONSOLE, say, warn
from jobs.segment_documents import SegmentDocuments
from jobs.segment_images import MASKS, SegmentImages
from jobs.segmenting import SegmentSettings, check_moments, live, pilot, run_plan
from pipeline import config, package, storage
from pipeline.distributed.engine_trial import decided, engine_of
from pipeline.distributed.run import Run
from pipeline.distributed.session import cluster_size, require_gpu, session
from pipeline.errors import DONE, GATE, TIME_LIMIT, WRONG_REQUEST, JobFailed, RequestError
from pipeline.quality.comparison import Gates
from pipeline.quality.pages import Page
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.earlier import newest_config, newest_first
from pipeline.runs.life import Life, one_line, outcome_of
from pipeline.runs.nights import Prices, exit_code, post, seconds_until, status, text_summary
from pipeline.runs.pilots import refusal, refuse
from pipeline.runs.plan import RunPlan
from pipeline.storage import StorageConfig
from pipeline.table.names import run_name
from pipeline.table.queries import inputs_where
from pipeline.task import Task
from pipeline.text.reconstruction import PARAGRAPHS
from pipeline.text.task import DECODING

#: Settings of runs that a source cannot have, since they would not count.
_OF_THE_NIGHT = ("source", "model", "sink", "dry_run", "compare", "storage", "cluster")


@dataclass(frozen=True, kw_only=True)
class NightSource:
    kind: Literal["images", "documents"]
    """What its inputs are."""
    source: list[str] | str
    """Inputs to read, as --source of segment_images and segment_documents."""
    model: str
    """URI of the model package."""
    sink: str
    """URI for the output."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Any other settings of segment_images or segment_documents, such as max_error_rate or stream."""
    gates: Gates | None = None
    """Gates of this source, instead of those of the night."""
    pilot_inputs: int = 200
    """Number of inputs on which a new model is compared with the old one before it may replace rows; 0: it may at
    once."""

    def __post_init__(self) -> None:
        config.check(self, "source", bool(self.source), "name at least one source")
        config.check(self, "pilot_inputs", self.pilot_inputs >= 0, "not be negative")
        taken = [name for name in _OF_THE_NIGHT if name in self.settings]
        config.check(self, "settings", not taken, f"not have {', '.join(taken)}, which the night or the source has")


@dataclass(frozen=True, kw_only=True)
class Nightly:
    """Segment what is new in several sources, one after the other, unattended. If one fails, the others go on. A model
    that a sink has not seen is compared with the old one first, and must pass the gates. Refused while another night of
    the same folder is going on."""

    folder: str
    """URI of the folder for the summaries and pages of the nights, and for the lease that keeps them apart."""
    sources: dict[str, NightSource]
    """The sources by name, each with kind, source, model, sink, and further settings."""
    only: list[str] | str | None = None
    """Only these sources, by name. Can be given several times."""
    gates: Gates = field(default_factory=Gates)
    deadline: str | None = None
    """Time of day (06:30) or duration (8h, 90m) after which the night stops cleanly and leaves the rest to the next
    one."""
    since: str | None = None
    """Take only inputs that were written at this time or later, by the listing."""
    until: str | None = None
    """Take only inputs that were written before this time, by the listing."""
    dry_run: bool = False
    """Only report what would be done, how long it would take, and what it would cost by the prices."""
    prices: Prices = field(default_factory=Prices)
    webhook: str | None = None
    """URL to which the summary is posted as JSON at the end, however the night went."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a night on another machine counts as abandoned."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        config.check(self, "sources", bool(self.sources), "name at least one source")
        unknown = [name for name in self.chosen() if name not in self.sources]
        config.check(self, "only", not unknown, f"name sources, which are {', '.join(self.sources)}")
        sinks = [storage.canonical(source.sink) for source in self.sources.values()]
        config.check(self, "sources", len(set(sinks)) == len(sinks), "have a sink each")
        config.check(self, "lease_s", self.lease_s > 0, "be positive")
        check_moments(self)
        is_web = self.webhook is None or self.webhook.startswith(("http://", "https://"))
        config.check(self, "webhook", is_web, "begin with http:// or https://")
        if self.deadline is not None:
            try:
                seconds_until(self.deadline, datetime.now())
            except ValueError as reason:
                raise RequestError(f"Nightly.deadline {reason}") from None

    def chosen(self) -> list[str]:
        """The names of the sources of this night, in the order of the file."""
        if self.only is None:
            return list(self.sources)
        return [self.only] if isinstance(self.only, str) else list(self.only)


def work(settings: Nightly) -> dict[str, Any]:
    night = _Night(settings)
    if settings.dry_run:
        return night.forecast()
    return night.live()


class _Night:
    def __init__(self, settings: Nightly) -> None:
        self._settings = settings
        self._end = None
        if settings.deadline is not None:
            self._end = time.monotonic() + seconds_until(settings.deadline, datetime.now())
        self._found: dict[str, dict[str, Any]] = {}

    def forecast(self) -> dict[str, Any]:
        """What each source would do. A source that is wrong does not keep the others from being looked at."""
        settings = self._settings
        with session(settings.cluster):
            for name in settings.chosen():
                say(f"--- {name}")
                self._found[name] = self._guarded(lambda name=name: self._forecast_of(name))
        total = sum(found.get("predicted_seconds", 0.0) for found in self._found.values())
        costs = [found["predicted_cost"] for found in self._found.values() if found.get("predicted_cost") is not None]
        cost = {"predicted_cost": round(sum(costs), 4), "currency": settings.prices.currency} if costs else {}
        say(f"about {total:.0f} s together" + (f", {cost['predicted_cost']:g} {cost['currency']}" if cost else ""))
        code = exit_code(self._found)
        return {
            "sources": self._found,
            "predicted_seconds": total,
            **cost,
            "status": "dry run" if code == DONE else status(code),
            "exit_code": code,
        }

    def live(self) -> dict[str, Any]:
        settings = self._settings
        name = run_name("")
        folder = storage.join(settings.folder, "nights", name)
        life = Life(settings.folder, f"night-{name}", settings.lease_s, option="folder")
        held = life.begin()
        outcome = life.work(lambda: self._work(held.check))
        code = outcome.exit_code or exit_code(self._found)
        summary = {
            "night": name,
            "sources": self._found,
            "status": status(code),
            "exit_code": code,
            **({"error": outcome.error} if outcome.error else {}),
        }
        text = text_summary(name, summary)
        storage.write(storage.join(folder, "summary.txt"), text.encode())
        summary["report"] = _page(name, summary).write(storage.join(folder, "report.html"))
        life.finish(storage.join(folder, "summary.json"), summary)
        self._post(summary)
        for line in text.splitlines():
            say(line)
        return summary

    def _work(self, check: Callable[[], None]) -> None:
        try:
            with session(self._settings.cluster):
                self._work_in_session(check)
        except RequestError as reason:  # there is no such cluster; the night has a summary all the same
            failed = {"status": "wrong request", "exit_code": WRONG_REQUEST, "error": one_line(reason)}
            self._found = dict.fromkeys(self._settings.chosen(), failed) | self._found
            warn(failed["error"])

    def _work_in_session(self, check: Callable[[], None]) -> None:
        for name in self._settings.chosen():
            check()
            say(f"--- {name}")
            if self._left() == 0:
                self._found[name] = {"status": "not begun before the deadline", "exit_code": TIME_LIMIT}
                continue
            self._found[name] = self._guarded(lambda name=name: self._run(name))
            if self._found[name]["exit_code"] >= 128:
                return  # a signal has ended the run, and ends the night

    def _run(self, name: str) -> dict[str, Any]:
        """Do the run of a source: with its model, or with the old one where the gates refuse the new one."""
        source, plan = self._settings.sources[name], self._plan(name)
        gates = source.gates or self._settings.gates
        if plan.stream.device == "gpu":
            require_gpu(self._settings.cluster, f"sources.{name}: stream.device 'gpu'")
        plan = decided(plan, say)
        before = _listed_before(plan)
        refused = self._refused(plan, gates, source.pilot_inputs)
        if refused is not None and refused["exit_code"] != GATE:
            return refused  # the pilot was stopped, or has failed
        if refused is not None:
            for reason in refused["gates"]:
                warn(f"{name}: {reason}")
            old = _with_old_model(plan)
            if old is None:
                warn(f"{name}: the old model is not there any more, so nothing is done")
                return refused
            say(f"the old model {old.package.digest[:12]} goes on")
            plan = old
        summary = live(Run(self._limited(plan), CONSOLE))
        reasons = [] if refused is None else refused["gates"]
        is_whole = not plan.selection.is_partial and plan.config.limit is None and summary["exit_code"] == DONE
        listing = gates.broken_listing(summary["listed"], before) if is_whole else None
        if listing is not None:
            warn(f"{name}: {listing}")
            reasons = [*reasons, listing]
        if reasons:
            summary |= {"gates": reasons}
            if summary["exit_code"] == DONE:
                summary |= {"status": status(GATE), "exit_code": GATE}
        if refused is not None:
            summary |= {key: refused[key] for key in ("pilot", "to_accept", "compared") if key in refused}
        seconds, cpus, gpus = summary["seconds"], cluster_size("CPU"), cluster_size("GPU")
        cost = self._settings.prices.cost(seconds, cpus, gpus)
        return summary | ({} if cost is None else {"cost": cost, "currency": self._settings.prices.currency})

    def _refused(self, plan: RunPlan, gates: Gates, inputs: int) -> dict[str, Any] | None:
        """Why a model may not replace rows; None if it may: it is known to the sink, or passes the gates."""
        last = newest_config(plan.sink)
        if not last or (last.get("digest"), last.get("settings")) == (plan.package.digest, plan.settings):
            return None
        model = plan.package.digest
        known = refusal(plan.sink, model, plan.settings)
        if known is not None:
            reasons = [f"model {model[:12]} was refused before: {reason}" for reason in known["reasons"]]
            return _refusal(plan, known["pilot"], reasons)
        among = inputs_where(plan.sink, "error is null") if inputs else ()
        if not len(among):
            return None  # no pilot is wanted, or there is no row that could get worse
        say(f"a new model or new settings: a pilot on {inputs} inputs with rows")
        part = dataclasses.replace(plan.selection, among=among, sample=inputs, since=None, until=None)
        config_of = dataclasses.replace(plan.config, limit=None, max_error_rate=1.0)
        found = pilot(self._limited(dataclasses.replace(plan, selection=part, config=config_of)))
        if found["exit_code"] != DONE:
            return found
        compared = found["compared"]
        reasons = gates.broken(compared)
        if not reasons:
            say(f"the new model passes the gates on {compared['pairs']} inputs")
            return None
        refuse(plan.sink, model, plan.settings, pilot=found["pilot"], reasons=reasons)
        return _refusal(plan, found["pilot"], reasons) | {"compared": compared, "report": found["report"]}

    def _forecast_of(self, name: str) -> dict[str, Any]:
        found = Run(decided(self._plan(name), say), CONSOLE).forecast()
        cost = self._settings.prices.cost(found["predicted_seconds"], cluster_size("CPU"), cluster_size("GPU"))
        return found | {"predicted_cost": cost, "status": "dry run", "exit_code": DONE}

    def _plan(self, name: str) -> RunPlan:
        """The run of a source. `RequestError` that names the source."""
        night, source = self._settings, self._settings.sources[name]
        kinds: dict[str, tuple[type[SegmentSettings], Sequence[type[Task]], tuple[str, ...]]] = {
            "images": (SegmentImages, MASKS, ("max_pixels", "tta")),
            "documents": (SegmentDocuments, PARAGRAPHS, DECODING),
        }
        settings_class, task_classes, names = kinds[source.kind]
        given = {"source": source.source, "model": source.model, "sink": source.sink}
        shared = {"storage": config.to_dict(night.storage), "cluster": config.to_dict(night.cluster)}
        moments = {"since": night.since, "until": night.until}
        try:
            settings = config.from_dict(settings_class, shared | moments | source.settings | given)
            return run_plan(settings, task_classes, {key: getattr(settings, key) for key in names})
        except RequestError as reason:
            raise RequestError(f"sources.{name}: {one_line(reason)}") from reason

    def _guarded(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a source's work returns, or how it failed. Signals go through."""
        try:
            return work()
        except RequestError as reason:
            found = {"status": "wrong request", "exit_code": WRONG_REQUEST, "error": one_line(reason)}
        except JobFailed as reason:
            found = outcome_of(reason).summary()
        except Exception as reason:
            traceback.print_exc()
            found = outcome_of(reason).summary()
        warn(found["error"])
        return found

    def _left(self) -> float | None:
        """The seconds until the deadline, 0 if it is over; None: there is none."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _limited(self, plan: RunPlan) -> RunPlan:
        """A plan that ends at the deadline."""
        limits = [limit for limit in (self._left(), plan.config.time_limit_s) if limit is not None]
        if not limits:
            return plan
        return dataclasses.replace(plan, config=dataclasses.replace(plan.config, time_limit_s=max(0.001, min(limits))))

    def _post(self, summary: Mapping[str, Any]) -> None:
        if self._settings.webhook is not None:
            try:
                post(self._settings.webhook, summary)
            except (OSError, ValueError, HTTPException) as reason:  # the URL may hold a secret, so it is not shown
                warn(f"the webhook did not take the summary: {type(reason).__name__}")


def _refusal(plan: RunPlan, name: str, reasons: list[str]) -> dict[str, Any]:
    command = f"python -m jobs.accept --sink {shlex.quote(plan.sink)} --pilot {name}"
    return {"status": status(GATE), "exit_code": GATE, "gates": reasons, "pilot": name, "to_accept": command}


def _with_old_model(plan: RunPlan) -> RunPlan | None:
    """The same run with the model and the settings of the sink's last one, if its package is still there."""
    last = newest_config(plan.sink)
    try:
        old = package.load(last["package"], plan.task.kind)
        task = config.from_dict(type(plan.task), last["task"])
    except (RequestError, KeyError, OSError):
        return None
    stream = dataclasses.replace(plan.stream, engine=engine_of(last))
    return dataclasses.replace(plan, package=old, task=task, stream=stream) if old.digest == last["digest"] else None


def _listed_before(plan: RunPlan) -> int:
    """How many inputs the last finished run of the whole of the same sources has listed; 0 if there is none."""
    sources = [storage.canonical(source) for source in plan.sources]
    same = (run for run in newest_first(plan.sink) if run.is_done and run.is_whole)
    return next((int(run.summary["listed"]) for run in same if run.summary.get("source") == sources), 0)


def _page(name: str, summary: Mapping[str, Any]) -> Page:
    page = Page(f"Night {name}")
    page.table("The night", [{"status": summary["status"], "exit code": summary["exit_code"]}])
    shown = ("status", "listed", "skipped", "done", "failed", "seconds", "cost", "error", "to_accept", "report")
    sources = summary["sources"]
    shown = [key for key in shown if any(found.get(key) is not None for found in sources.values())]
    rows = [{"source": source} | {key: found.get(key) for key in shown} for source, found in sources.items()]
    page.table("Sources", rows)
    gates = [
        {"source": source, "gate": reason}
        for source, found in summary["sources"].items()
        for reason in found.get("gates", [])
    ]
    page.table("Gates that were not passed", gates)
    return page


if __name__ == "__main__":
    main(Nightly, work)
