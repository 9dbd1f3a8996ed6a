"""Run: one pass over a source into a sink. List, subtract what the table holds, stream, commit, supersede, report."""

from __future__ import annotations

import dataclasses
import json
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline import storage
from pipeline.config import check, to_dict
from pipeline.distributed import lease
from pipeline.distributed.forecast import forecast
from pipeline.distributed.manifest import Manifest
from pipeline.distributed.parallel import ordered
from pipeline.distributed.source import entries
from pipeline.distributed.stream import (
    STAGES,
    StreamConfig,
    Work,
    end_executions,
    receipts,
    settings_digest,
    uncommitted,
)
from pipeline.distributed.table import Part, Table, table_schema
from pipeline.distributed.watch import make_board
from pipeline.errors import RequestError
from pipeline.package import Package
from pipeline.task import Task

_PASSES = 3  # the first, and two for what is missing after it
_EXAMPLES = 12
_ENDING_S = 10.0  # how long Ray Data may take to end what is under way


class ErrorBudgetSpent(RuntimeError):
    """More inputs failed than ``max_error_rate`` allows; what was done until then is committed."""


class StreamStalled(RuntimeError):
    """Nothing came out of the stream for too long, or inputs are missing after every pass."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    limit: int | None = None
    """Work on at most so many inputs that the table does not hold yet."""
    retry_errors: bool = False
    """Take inputs again whose row is an error."""
    max_error_rate: float = 0.1
    """Stop when more than this share of the inputs processed so far failed, and more than error_floor of them."""
    error_floor: int = 50
    """So many errors never stop a run."""
    superseded: Literal["remove", "keep"] = "remove"
    """What happens at the end to older rows of the inputs that this run listed."""
    lease_s: float = 30.0
    """A run on another machine that has not renewed its lease on the sink for so many seconds is replaced."""
    commit_s: float = 5.0
    """Seconds between commits."""
    stall_timeout_s: float = 900.0
    """Fail when no part comes out of the stream for so many seconds."""

    def __post_init__(self) -> None:
        check(self, "limit", self.limit is None or self.limit >= 1, "be at least 1, or null")
        check(self, "max_error_rate", 0 <= self.max_error_rate <= 1, "be in [0, 1]")
        check(self, "error_floor", self.error_floor >= 0, "not be negative")
        check(self, "lease_s", self.lease_s > 0, "be positive")
        check(self, "commit_s", self.commit_s >= 0, "not be negative")
        check(self, "stall_timeout_s", self.stall_timeout_s > 0, "be positive")


class Run:
    """One run. `summary` is true at any moment, so that whatever ends the run can be reported."""

    def __init__(
        self,
        *,
        task: Task,
        package: Package,
        sources: Sequence[str],
        sink: str,
        config: RunConfig,
        stream: StreamConfig,
        say: Callable[[str], None],
    ) -> None:
        """Check the request: `RequestError` before anything is written."""
        self._config, self._say = config, say
        self._sources, self._sink = list(sources), sink
        schema = table_schema(task.schema, task.features)
        self.table = Table(sink, schema)
        self._entries = _peeked(_outside(storage.canonical(sink), entries(self._sources, task.suffixes)))
        self._work = Work(
            task=task,
            package_uri=package.uri,
            package_digest=package.digest,
            settings=settings_digest(task, stream),
            table_uri=self.table.uri,
            schema=schema,
            run_id="",
            stream=stream,
        )
        self._errors: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._committed = np.zeros(0, bool)
        self._lease: lease.Lease | None = None
        self._pending_commit: list[Part] = []
        self._examples: dict[bool, list[str]] = {True: [], False: []}
        self.summary: dict[str, Any] = {
            "run_id": "",
            "source": [storage.canonical(source) for source in self._sources],
            "table": self.table.uri,
            "model": package.digest,
            "settings": self._work.settings,
            "listed": 0,
            "repeated": 0,
            "skipped": 0,
            "pending": 0,
            "done": 0,
            "failed": 0,
            "errors": {},
            "removed": 0,
            "orphans": 0,
            "fetched_bytes": 0,
        }
        self._name()

    def _name(self) -> None:
        """Take a run's name that sorts after all that the table has seen."""
        self.run_id = _run_id(self.table.last_run_id())
        self.folder = storage.join(self._sink, "runs", self.run_id)
        self._manifest = Manifest(storage.join(self.folder, "manifest"))
        self._work = dataclasses.replace(self._work, run_id=self.run_id)
        self.summary["run_id"] = self.run_id

    def execute(self) -> None:
        """The whole run. Whatever interrupts it, parts that have arrived are committed first.

        `RequestError` where another run holds the sink; then nothing is written. `lease.LeaseLost` where another has
        taken it over.
        """
        started = time.monotonic()
        self._lease = held = lease.acquire(self._sink, self.run_id, self._config.lease_s)
        try:
            try:
                self._execute(held)
            finally:
                self._commit()
        except RequestError:  # no summary is written then, which is where the lease ends otherwise
            held.release()
            raise
        finally:
            self.summary["seconds"] = round(time.monotonic() - started, 3)
            busy = {stage: round(self._seconds[stage], 3) for stage in STAGES}
            self.summary["stage_seconds"] = busy

    def forecast(self) -> None:
        """Put what `execute` would do, and how long it would take, into the summary; nothing stays in the sink."""
        found = forecast(
            self._entries,
            self.table,
            self._work,
            self._sink,
            retry_errors=self._config.retry_errors,
            limit=self._config.limit,
            say=self._say,
        )
        kept = ("source", "table", "model", "settings")
        self.summary = {name: self.summary[name] for name in kept} | found

    @property
    def examples(self) -> list[str]:
        """Some of the files that this run wrote, first such that have failed rows."""
        return [uri for failed in (True, False) for uri in self._examples[failed]]

    def finish(self, status: str, exit_code: int) -> None:
        """Store the run's settings and summary below ``SINK/runs/RUN_ID``, and give the sink free."""
        self.summary |= {"status": status, "exit_code": exit_code}
        self._describe()
        self._store("summary.json", self.summary)
        if self._lease is not None:
            self._lease.release()

    def _describe(self) -> None:
        described = {
            "run": to_dict(self._config),
            "stream": to_dict(self._work.stream),
            "task": to_dict(self._work.task),
            "package": self._work.package_uri,
            "digest": self._work.package_digest,
            "settings": self._work.settings,
            "source": self._sources,
        }
        self._store("config.json", described)

    def _store(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        storage.write(storage.join(self.folder, name), text.encode("utf-8", "backslashreplace"))

    def _execute(self, held: lease.Lease) -> None:
        self.table.create()
        self.table.fence(held.number, self.run_id)
        if self.table.last_run_id() > self.run_id:
            self._name()
        self._describe()  # now, so that whoever reads rows of a run that was killed knows what made them
        self.summary["orphans"] = self.table.remove_orphans(self._unfinished())
        self._say(f"listing {', '.join(self._sources)}")
        outdated = self._write_manifest()
        listed, pending = self._manifest.listed, self._manifest.pending
        self.summary |= {"listed": listed, "pending": pending, "skipped": listed - pending}
        self.summary["repeated"] = self._manifest.repeated
        self._say(f"{listed} inputs listed, {listed - pending} in the table already, {pending} to do")
        self._committed = np.zeros(listed, bool)
        board = make_board()
        self._work = dataclasses.replace(self._work, board=board)
        try:
            self._run_passes(pending, held)
        finally:
            ray.kill(board)
        self._finish_table(outdated)

    def _write_manifest(self) -> bool:
        """List the sources and subtract what the table holds; whether older rows of this model will have to leave.

        What the table holds is let go of at once: its keys take memory that the stream needs.
        """
        held = self.table.held(self._work.package_digest, self._work.settings)
        self._manifest.write(self._entries, held.done(self._config.retry_errors), self._config.limit)
        return held.outdated(self._manifest.inputs(), self._manifest.pending)

    def _run_passes(self, pending: int, held: lease.Lease) -> None:
        stream = self._work.stream
        for attempt in range(_PASSES):
            if self._committed.sum() == pending:
                break
            if attempt:
                self._say(f"{pending - self._committed.sum()} inputs have no row yet; running them again")
            rows = block_rows(pending, stream)
            for blocks in self._manifest.blocks(self._committed, rows, stream.block_bytes):
                self._stream(blocks, held)
        self._commit()

    def _finish_table(self, outdated: bool) -> None:
        pending = self.summary["pending"]
        if self._committed.sum() != pending:
            missing = pending - int(self._committed.sum())
            raise StreamStalled(f"{missing} inputs have no row after {_PASSES} passes; the same command takes them up")
        if self._config.superseded == "remove":
            self.summary["removed"] = self.table.supersede(
                self._manifest.inputs(),
                self._manifest.versions(),
                model=self._work.package_digest,
                settings=self._work.settings,
                run_id=self.run_id,
                own_parts=outdated,
            )
        # Attempts that were repeated leave parts behind that nobody sees.
        self.summary["orphans"] += self.table.remove_orphans([self.run_id])

    def _unfinished(self) -> list[str]:
        """Earlier runs that did not clean up after themselves: they ended otherwise than with 0, or not at all."""
        runs = storage.join(self._sink, "runs")

        def ended(name: str) -> bool:
            try:
                return json.loads(storage.read(storage.join(runs, name, "summary.json")))["exit_code"] == 0
            except (OSError, ValueError, KeyError):
                return False

        names = [name for name in storage.names(runs) if name != self.run_id]
        return [name for name, clean in zip(names, ordered(ended, names, 16), strict=True) if not clean]

    def _stream(self, blocks: list[pa.Table], held: lease.Lease) -> None:
        last_commit = last_word = time.monotonic()
        with closing(_with_timeout(receipts(blocks, self._work), self._config.stall_timeout_s)) as arriving:
            for receipt in arriving:
                if receipt is not None:
                    self._accept(receipt)
                now = time.monotonic()
                if self._pending_commit and now - last_commit >= self._config.commit_s:
                    self._commit()
                    last_commit = time.monotonic()  # a slow store must not make a commit for every part
                if now - last_word >= 5:
                    self._say(self._progress())
                    last_word = now
                held.check()
                self._check_budget()
        self._say(self._progress())

    def _accept(self, receipt: dict[str, Any]) -> None:
        for accepted in uncommitted([receipt], self._committed):
            model = self._work.package_digest
            self._pending_commit.append(
                Part(path=accepted["path"], size=accepted["size"], rows=accepted["rows"], model=model)
            )
            self._errors.update(accepted["failed"])
            found = self._examples[bool(accepted["failed"])]
            if len(found) < _EXAMPLES:
                found.append(storage.join(self.table.uri, accepted["path"]))
            self._seconds.update({stage: accepted[f"{stage}_s"] for stage in STAGES})
            self.summary["failed"] += len(accepted["failed"])
            self.summary["done"] += accepted["rows"] - len(accepted["failed"])
            self.summary["fetched_bytes"] += accepted["bytes"]
            self.summary["errors"] = dict(sorted(self._errors.items()))

    def _commit(self) -> None:
        if self._pending_commit:
            parts, self._pending_commit = self._pending_commit, []
            self.table.commit(parts, run_id=self.run_id)

    def _check_budget(self) -> None:
        failed, done = self.summary["failed"], self.summary["done"]
        if failed > self._config.error_floor and failed > self._config.max_error_rate * (failed + done):
            raise ErrorBudgetSpent(
                f"{failed} of {failed + done} inputs failed, more than max_error_rate "
                f"{self._config.max_error_rate} allows: {dict(self._errors.most_common(3))}"
            )

    def _progress(self) -> str:
        done, failed = self.summary["done"], self.summary["failed"]
        return f"{done + failed} of {self.summary['pending']} inputs, {failed} of them failed"


def block_rows(pending: int, stream: StreamConfig) -> int:
    """Rows in one block: what is configured, or fewer where there would not be enough blocks to keep actors busy."""
    actors = stream.actors or 4
    return max(1, min(stream.block_rows, max(stream.batch_rows, -(-pending // (4 * actors)))))


def _with_timeout(
    items: Generator[dict[str, Any], None, None], timeout_s: float
) -> Generator[dict[str, Any] | None, None, None]:
    """Receipts, and None twice a second while there is none, so that the caller stays awake. Closed, it ends the
    executions they come from."""
    arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
    abandoned = threading.Event()

    def drain() -> None:
        try:
            with closing(items):
                for item in items:
                    if abandoned.is_set():
                        return
                    arrived.put(("item", item))
            arrived.put(("end", None))
        except BaseException as reason:
            arrived.put(("error", reason))

    def end() -> None:
        while drained.is_alive():  # an execution may be about to begin
            end_executions()
            drained.join(0.1)

    drained = threading.Thread(target=drain, name="receipts", daemon=True)
    drained.start()
    last = time.monotonic()
    try:
        while True:
            try:
                kind, value = arrived.get(timeout=0.5)
            except queue.Empty:
                if time.monotonic() - last > timeout_s:
                    raise StreamStalled(f"nothing came out of the stream for {timeout_s:g} s") from None
                yield None
                continue
            last = time.monotonic()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        abandoned.set()
        # In a thread, since a cluster that hangs must not hold up its driver. But for that, nothing of Ray Data may be
        # under way when the cluster is left: Ray would end the process then and there.
        ending = threading.Thread(target=end, name="ending", daemon=True)
        ending.start()
        ending.join(_ENDING_S)


def _outside(sink: str, chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The entries but for those below the sink: a table in the folder that is read is not its own input."""
    for chunk in chunks:
        inside = pc.call_function("starts_with", [chunk["uri"]], pc.MatchSubstringOptions(sink + "/"))
        yield chunk.filter(pc.call_function("invert", [inside]))


def _peeked(chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same iterator with its first chunk fetched, so that a wrong source fails before anything is written."""
    first = next(chunks, None)

    def again() -> Iterator[pa.Table]:
        if first is not None:
            yield first
        yield from chunks

    return again()


def _run_id(last: str) -> str:
    """A name that sorts after every earlier run's, whatever the clocks: UTC time and four random hex digits."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    stamp = max(now, last.rsplit("-", 1)[0])
    name = f"{stamp}-{secrets.token_hex(2)}"
    return name if name > last else f"{stamp}-{int(last.rsplit('-', 1)[1], 16) + 1:04x}"
