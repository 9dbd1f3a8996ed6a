"""A run segments a source into a sink: list inputs, skip those in the table, process, commit, remove older rows."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline import storage
from pipeline.config import to_dict
from pipeline.distributed.gpu_request import GpuRequest
from pipeline.distributed.metrics import Metrics
from pipeline.distributed.places import Places, mark
from pipeline.distributed.session import capacity, cluster_size, cluster_state, waiting
from pipeline.distributed.stages import STAGES, Work
from pipeline.distributed.stream import StreamStalled, item_or_none, receipts, stream_state
from pipeline.distributed.watchdog import make_unfinished_blocks
from pipeline.errors import TIME_LIMIT, JobFailed, RequestError
from pipeline.runs.committer import Committer
from pipeline.runs.counts import RunCounts
from pipeline.runs.device import DeviceChoice
from pipeline.runs.earlier import deleted_rows, newest_first, runs_since_done
from pipeline.runs.events import Tell, Teller
from pipeline.runs.forecast import forecast
from pipeline.runs.gone import gone_inputs, store_gone
from pipeline.runs.life import Life, Outcome, store_json
from pipeline.runs.plan import RunPlan, StreamConfig
from pipeline.runs.timeline import Timeline
from pipeline.source.entries import entries
from pipeline.source.keys import KeySet
from pipeline.source.passed import PassedOver
from pipeline.submission import submission_id
from pipeline.table.compaction import Compacted, compact, is_fragmented
from pipeline.table.delta import Table
from pipeline.table.lease import Lease, LeaseLost
from pipeline.table.log import Change
from pipeline.table.manifest import Manifest
from pipeline.table.names import run_name

_FEW_ACTORS = 4  # for which there are blocks enough where the size of the cluster is not known
_PASSES = 3  # the first pass, and two for inputs that have no row after it
_PROGRESS_S = 5.0
_STORED_PROGRESS_S = 15.0
_WAITING_S = 30.0  # without a receipt, after which a run says what it waits for


class TimeLimitReached(JobFailed):
    """A run has used up its time. What it has done is committed."""

    status = "time limit"
    exit_code = TIME_LIMIT


class Run:
    """One run. Its `summary` is correct at any moment, so that it can be reported however the run ends."""

    def __init__(self, plan: RunPlan, tell: Tell) -> None:
        """Check the request. Raises `RequestError` before anything is written."""
        self.plan = plan
        self._log = Teller(tell)
        self._say = self._log.say
        for source in plan.sources:
            _check_source(source, plan.sink)
        self.table = Table(plan.sink, plan.schema)
        self._passed = PassedOver()
        listed = entries(plan.sources, plan.task.inputs, plan.stream.fetch, self._passed)
        self._entries = plan.selection.of(_peeked(_outside(storage.canonical(plan.sink), listed)))
        self.counts, self.timeline = RunCounts(), Timeline()
        self._committer: Committer | None = None
        self._seconds = 0.0
        self._started = time.monotonic()
        self._stored_progress = 0.0
        self._outcome: Outcome | None = None
        self._changes: list[Change] = []
        self._compacted: Compacted | None = None
        self._version_at_start = 0
        self._gone: int | None = None
        self._name(run_name(self.table.last_run_id()))

    @property
    def summary(self) -> dict[str, Any]:
        """Description of the run: its inputs, counts, duration, and after its end the outcome."""
        return {
            "run_id": self.run_id,
            "source": [storage.canonical(source) for source in self.plan.sources],
            "table": self.table.uri,
            "model": self.plan.package.digest,
            "settings": self.plan.settings,
            "engine": self.plan.stream.engine,
            **self.counts.summary(),
            "columns": self.plan.task.remarks,
            **({"other_tools": [str(change) for change in self._changes]} if self._changes else {}),
            "passed_over": self._passed.by_ending(),
            **({} if self._gone is None else {"gone": self._gone}),
            **({} if self._compacted is None else {"compacted": to_dict(self._compacted)}),
            "table_version": self.table.version,
            "seconds": round(self._seconds, 3),
            **({} if self._outcome is None else self._outcome.summary()),
        }

    def live(self) -> Outcome:
        """Do the run, from taking the lease to writing the summary below ``SINK/runs/RUN_ID``. Returns its outcome.

        If it is interrupted, the parts that have arrived are committed. `RequestError` if another run has the lease on
        the sink; then nothing is written.
        """
        self._log.add(Metrics(self.plan.task.kind))
        life = Life(self.plan.sink, self.run_id, self.plan.config.lease_s)
        lease = life.begin(after=self.table.last_lease())
        self._outcome = life.work(lambda: self._execute(lease))
        life.finish(storage.join(self.folder, "summary.json"), self.summary)
        return self._outcome

    def forecast(self) -> dict[str, Any]:
        """Predict what `live` would do and how long it would take. It leaves nothing in the sink."""
        plan = self.plan
        if self.table.lost:
            raise RequestError(
                f"the log of the table at {self.table.uri} ends in files that a power cut took; run first"
            )
        kept = {name: self.summary[name] for name in ("source", "table", "model", "settings")}
        return kept | forecast(
            self._entries,
            self.table,
            plan.sink,
            model=plan.package.digest,
            settings=plan.settings,
            described=plan.described_settings(),
            retry_errors=plan.config.retry_errors,
            limit=plan.config.limit,
            block_bytes=plan.stream.block_bytes,
            receipts=self._timed_receipts,
            stages=STAGES,
            say=self._say,
        )

    def _name(self, name: str) -> None:
        self.run_id = name
        self._log.shared["run"] = name
        self.folder = storage.join(self.plan.sink, "runs", name)
        self._manifest = Manifest(storage.join(self.folder, "manifest"))

    def _timed_receipts(self, blocks: list[pa.Table], folder: str) -> Iterator[dict[str, Any]]:
        uris = [uri for block in blocks for uri in block["uri"].to_pylist()]
        work = self._work(folder, mark(folder, package=self.plan.package.uri, inputs=uris))
        return receipts(blocks, work, self._device().now)

    def _device(self) -> DeviceChoice:
        stream = self.plan.stream
        return DeviceChoice(stream.device, capacity(self.plan.cluster), stream.gpu_wait_s, lambda: cluster_size("GPU"))

    def _work(self, table_uri: str, places: Places, unfinished: Any = None) -> Work:
        plan = self.plan
        return Work(
            task=plan.task,
            package_uri=plan.package.uri,
            package_digest=plan.package.digest,
            settings=plan.settings,
            table_uri=table_uri,
            schema=self.table.schema,
            run_id=self.run_id,
            stream=plan.stream,
            places=places,
            unfinished=unfinished,
        )

    def _execute(self, lease: Lease) -> None:
        self._started = started = time.monotonic()
        self.timeline.begin()
        try:
            self._begin(lease)
            outdated = self._write_manifest()
            self._run_passes(lease)
            self._finish_table(outdated)
            self._say_unusual()
            self._compact(lease)
        finally:
            if self._committer is not None:
                self._committer.commit()
            self._seconds = time.monotonic() - started

    def _begin(self, lease: Lease) -> None:
        if self.table.lost:
            count = len(self.table.lost)
            self._log.warn(f"the table's log ends in {count} files that a power cut took; they are removed")
        self.table.create()
        self.table.fence(lease.number, self.run_id)
        if self.table.new_columns:
            self._say(f"the table has new columns: {', '.join(self.table.new_columns)}; its rows are null there")
        if (last := self.table.last_run_id()) > self.run_id:
            self._name(run_name(last))
        # Written at the beginning, so that it also describes the rows of a run that is killed.
        store_json(storage.join(self.folder, "config.json"), self.plan.described())
        earlier = runs_since_done(self.plan.sink, self.run_id)
        # Runs that did not end with success have left files behind.
        self.counts.orphans = self.table.remove_orphans(run.name for run in earlier if not run.is_done)
        self._version_at_start = self.table.version
        self._changes = self.table.changes_of_others(
            max((run.table_version for run in earlier if run.is_done), default=0)
        )
        if self._changes:
            changes = ", ".join(map(str, self._changes))
            self._log.warn(f"another tool has changed the table since the last run: {changes}")

    def _write_manifest(self) -> bool:
        """List the sources and skip what the table has. Returns whether rows of this model will become outdated.

        The contents of the table are released at the end of this method, since the stream needs the memory.
        """
        if (submitted := submission_id()) is not None:
            self._say(f"run {self.run_id}, submitted as {submitted}")
        self._say(f"listing {', '.join(self.plan.sources)}")
        config, counts = self.plan.config, self.counts
        contents = self.table.contents(self.plan.package.digest, self.plan.settings)
        self._manifest.write(self._entries, contents.done(config.retry_errors), config.limit)
        counts.listed, counts.pending = self._manifest.listed, self._manifest.pending
        counts.skipped, counts.repeated = counts.listed - counts.pending, self._manifest.repeated
        self._say(f"{counts.listed} inputs listed, {counts.skipped} in the table already, {counts.pending} to do")
        if self._passed.by_ending():
            self._say(str(self._passed))
        if config.limit is None and not self.plan.selection.is_partial:
            self._find_gone(contents.inputs)
        if self._changes:
            finished = (run for run in newest_first(self.plan.sink, before=self.run_id) if run.is_done)
            counts.remade = deleted_rows(self._manifest, contents.inputs, finished)
            if counts.remade:
                self._say(f"{counts.remade} of them had a row that another tool has deleted")
        return contents.outdated(self._manifest.inputs(), self._manifest.pending)

    def _find_gone(self, held: KeySet) -> None:
        """Find the inputs in the table that the sources have no more. ``held``: those with rows of this model."""
        others, listed = self.table.other_inputs(self.plan.package.digest), self._manifest.inputs()
        sources = [storage.canonical(source) for source in self.plan.sources]
        earlier = newest_first(self.plan.sink, before=self.run_id)
        found = gone_inputs(listed, KeySet([held.keys, others.keys]), sources, earlier)
        store_gone(self.folder, found)
        self._gone = found.num_rows
        if found.num_rows:
            self._say(f"{found.num_rows} inputs in the table are gone from the source; forget --gone removes them")

    def _run_passes(self, lease: Lease) -> None:
        plan, pending = self.plan, self.counts.pending
        committer = self._committer = Committer(
            self.table, self.counts, model=plan.package.digest, run_id=self.run_id, inputs=self.counts.listed
        )
        unfinished = make_unfinished_blocks()
        places = mark(self.folder, package=plan.package.uri, inputs=self._manifest.some_pending)
        work = self._work(self.table.uri, places, unfinished)
        device, attempt, request = self._device(), 0, GpuRequest(plan.stream.gpu_wait_s)
        try:
            while attempt < _PASSES and committer.missing(pending):
                if attempt:
                    self._say(f"{committer.missing(pending)} inputs have no row yet; running them again")
                self._say(f"working {device.reason()}")
                self._ask_for_gpu(device, request)
                rows, is_planned_anew = block_rows(pending, plan.stream, device.most_actors()), False
                rows = min(rows, plan.task.block_rows or rows)
                for blocks in self._manifest.blocks(committer.accepted, rows, plan.stream.block_bytes):
                    is_planned_anew = self._stream(blocks, work, device, request, committer, lease)
                    if is_planned_anew:
                        break
                self._commit(committer)
                self._forget_lost_parts(committer)
                attempt += not is_planned_anew
        finally:
            request.withdraw()
            ray.kill(unfinished)
            places.remove()

    def _ask_for_gpu(self, device: DeviceChoice, request: GpuRequest) -> None:
        """Ask for a GPU where one may come, or give the actors the one that has come."""
        if not device.is_uncertain:
            request.withdraw()
        elif not request.is_open and request.open():
            seconds = self.plan.stream.gpu_wait_s
            self._say(f"a GPU is asked for meanwhile, for {seconds:g} s, in case an autoscaler can bring one")

    def _stream(
        self,
        blocks: list[pa.Table],
        work: Work,
        device: DeviceChoice,
        request: GpuRequest,
        committer: Committer,
        lease: Lease,
    ) -> bool:
        """Run blocks through the stages and commit what comes out. Returns whether it ended early, to be planned anew,
        because the device has changed."""
        config = self.plan.config
        last_commit = last_word = last_receipt = time.monotonic()
        with closing(item_or_none(receipts(blocks, work, device.now), config.stall_timeout_s)) as arriving:
            for receipt in arriving:
                now = time.monotonic()
                if receipt is not None:
                    if committer.accept(receipt, STAGES):
                        self._tell_part(receipt)
                    last_receipt = now
                if committer.is_waiting and now - last_commit >= config.commit_s:
                    self._commit(committer)
                    # After the commit, so that a slow store does not get one for each part.
                    last_commit = time.monotonic()
                if now - last_word >= (_PROGRESS_S if now - last_receipt < _WAITING_S else _WAITING_S):
                    self._tell_progress(device if now - last_receipt >= _WAITING_S else None)
                    last_word = now
                lease.check()
                self._check_time()
                self.counts.check_budget(config.max_error_rate, config.error_floor)
                if device.has_changed():
                    return True
                if request.has_expired():
                    self._say("no GPU has come; the request is withdrawn")
        self._tell_progress()
        return False

    def _tell_part(self, receipt: dict[str, Any]) -> None:
        ordinals, seconds = receipt["ordinals"], {stage: receipt[f"{stage}_s"] for stage in STAGES}
        self.timeline.add(receipt["rows"], receipt["bytes"], seconds)
        if self.timeline.is_unseen:
            self.timeline.look(stream_state() | cluster_state())  # a short run may end before it tells its progress
        self._log.tell(
            "part",
            block=f"{min(ordinals)}-{max(ordinals)}",
            path=receipt["path"],
            rows=receipt["rows"],
            failed=dict(Counter(receipt["failed"])),
            bytes=receipt["bytes"],
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
        )

    def _tell_progress(self, idle: DeviceChoice | None = None) -> None:
        """How far the run is. ``idle``: the device for which it waits, since nothing has arrived for long."""
        counts = self.counts
        facts = {"done": counts.done, "failed": counts.failed, "pending": counts.pending, "errors": dict(counts.errors)}
        state = stream_state() | cluster_state()
        self.timeline.look(state)
        facts |= state | {"seconds": round(time.monotonic() - self._started, 1)}
        self._store_progress(facts)
        if idle is None:
            self._log.tell("progress", counts.progress(), **facts)
        else:
            self._log.tell("waiting", waiting(idle.now), **facts)

    def _store_progress(self, facts: dict[str, Any]) -> None:
        """For those who look from elsewhere (`status`), now and then. The run does not depend on it."""
        if time.monotonic() - self._stored_progress >= _STORED_PROGRESS_S:
            self._stored_progress = time.monotonic()
            with contextlib.suppress(OSError):
                now = datetime.now(UTC).isoformat(timespec="seconds")
                store_json(storage.join(self.folder, "progress.json"), {"time": now, **facts})

    def _check_time(self) -> None:
        limit = self.plan.config.time_limit_s
        if limit is not None and time.monotonic() - self._started > limit:
            raise TimeLimitReached(f"stopped after time_limit_s {limit:g} s; the next run takes up the rest")

    def _commit(self, committer: Committer) -> None:
        before = committer.committed_rows
        refused = committer.commit()
        self._log.tell("commit", rows=committer.committed_rows - before, table_version=self.table.version)
        if refused:
            self._log.warn(f"another tool has deleted {refused} files of this run before they were committed")

    def _forget_lost_parts(self, committer: Committer) -> None:
        """Take out of the table the parts whose files another tool has deleted, so that the next pass makes them again.

        A file that is written but not committed yet belongs to no version of the table, so a ``vacuum`` without a
        retention time deletes it. Most of them are found at the commit; these vanished between.
        """
        model = self.plan.package.digest
        lost = self.table.lost_parts(self.run_id, model)
        if lost:
            self._log.warn(f"another tool has deleted {len(lost)} files of this run")
            self.table.drop(lost, self.run_id)
            left, errors = self.table.rows_of(self.run_id, model)
            committer.keep_only(self._manifest.among(left), errors)

    def _say_unusual(self) -> None:
        for name, count in self.counts.unusual.items():
            self._log.warn(f"{count} inputs {self.plan.task.unusual_text(name)}")

    def _finish_table(self, outdated: bool) -> None:
        assert self._committer is not None
        missing = self._committer.missing(self.counts.pending)
        if missing:
            raise StreamStalled(f"{missing} inputs have no row after {_PASSES} passes; the same command takes them up")
        changed = self.table.changes_of_others(self._version_at_start)
        self._changes += changed
        if self.plan.config.superseded == "remove":
            self.counts.removed = self.table.supersede(
                self._manifest.inputs(),
                self._manifest.versions(),
                model=self.plan.package.digest,
                settings=self.plan.settings,
                run_id=self.run_id,
                own_parts=outdated or bool(changed),
            )
        # Repeated attempts have left parts that were not committed.
        self.counts.orphans += self.table.remove_orphans([self.run_id])

    def _compact(self, lease: Lease) -> None:
        """Join small files if there are many. The run has done its work before, and does not fail if this does."""
        model = self.plan.package.digest
        if self.plan.config.compact == "never" or not is_fragmented(self.table, model):
            return
        self._say("joining small files of the table")
        try:
            self._compacted = compact(self.table, self.run_id, model=model, check=lease.check)
        except LeaseLost:
            raise
        except (JobFailed, OSError) as reason:
            self._log.warn(f"the small files stay: {reason}")
            self.table.remove_orphans([self.run_id])
        else:
            self._say(f"{self._compacted.before} files of the table have become {self._compacted.after}")


def block_rows(pending: int, stream: StreamConfig, room: float | None) -> int:
    """Number of rows in a block: as configured, or fewer if otherwise there would be too few blocks for the actors.

    ``room``: number of CPUs or GPUs that actors can have; None: unknown.
    """
    _, most = stream.actor_range()
    actors = most or max(_FEW_ACTORS, int(room or 0))
    return max(1, min(stream.block_rows, max(stream.batch_rows, -(-pending // (4 * actors)))))


def _check_source(source: str, sink: str) -> None:
    """`RequestError` if a source is the sink or in it, or is another sink: results are no inputs."""
    if storage.is_within(source, sink):
        raise RequestError(f"source {source!r} lies in the sink {sink!r}: results are no inputs")
    if storage.is_folder(storage.join(source, "table", "_delta_log")):
        rule = "results are no inputs; a file of its table, named alone, stands for the inputs that its rows name"
        raise RequestError(f"source {source!r} is a sink: {rule}")


def _outside(sink: str, chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The entries that are not below the sink, so that a table is never its own input."""
    for chunk in chunks:
        inside = pc.call_function("starts_with", [chunk["uri"]], pc.MatchSubstringOptions(sink + "/"))
        yield chunk.filter(pc.call_function("invert", [inside]))


def _peeked(chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same iterator, with its first chunk fetched now, so that a wrong source fails before anything is written."""
    first = next(chunks, None)

    def again() -> Iterator[pa.Table]:
        if first is not None:
            yield first
        yield from chunks

    return again()
