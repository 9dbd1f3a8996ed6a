"""Commits to a Delta table: under a lease, exactly once, and against other tools that commit at the same time.

The lease keeps out other runs only. Other tools may commit at any time, for example to compact the table. So a commit
that removes files is made only if nothing was committed since the table was read, and is planned anew otherwise.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from pipeline import storage
from pipeline.errors import JobFailed
from pipeline.table.lease import LeaseLost
from pipeline.table.log import PARTITION, TOKEN, durable_commits, patiently
from pipeline.table.parts import Part

T = TypeVar("T")

_LEASE = "parquetry-lease"  # application id of the Delta transactions whose versions are numbers of leases
_COMMIT_DEADLINE_S = 20.0
_REPLACE_ATTEMPTS = 12


class _Moved(Exception):
    """Another commit was made since the table was read."""


class Commits:
    """The commits of one run to a table. `fence` comes first."""

    def __init__(self, uri: str, delta: DeltaTable, columns: pa.Schema) -> None:
        """``uri``: that of the table. ``columns``: those of the files that are added."""
        self.delta = delta
        self._uri = uri
        self._durable: set[str] | None = None  # names in the log that are known to be on the disk
        self._columns = columns.remove_metadata()
        self._lease: int | None = None
        self._is_lost = False

    @property
    def version(self) -> int:
        """The number of the newest version that is known here."""
        return self.delta.version()

    def newest_lease(self) -> int | None:
        """The number of the newest lease whose holder has committed, as far as it is known here."""
        return patiently(lambda: self.delta.transaction_version(_LEASE))

    def fence(self, lease: int, run_id: str) -> None:
        """Allow commits only to runs with this lease number or a higher one.

        This is a commit of its own, before the table is read, by the transaction identifiers of the Delta protocol. A
        run that has lost its lease conflicts with it, whatever version of the table that run has seen. `LeaseLost` if
        the table has a higher number already.
        """
        self._lease = lease
        patiently(self.delta.update_incremental)
        self._check_lease()
        self.append([], run_id)

    def append(self, add: Sequence[Part], run_id: str) -> None:
        """Add parts to the table in one transaction, whatever others have committed."""
        self._write([_added(part) for part in add], run_id)

    def replace(
        self,
        plan: Callable[[], tuple[Sequence[Part], Sequence[Part], T]],
        run_id: str,
        *,
        changes_rows: bool = True,
    ) -> T:
        """Commit the parts to add and to remove that ``plan`` gives, and return its result.

        ``changes_rows``: False if the same rows are only stored otherwise. The log then says so, and tools that follow
        the table's changes do not take the rows for new ones.

        ``plan`` reads the table. It is called again if another commit was made before ours. Otherwise rows that both
        have rewritten would be there twice, since delta-rs accepts the removal of a file that another tool has removed.
        """
        for attempt in range(_REPLACE_ATTEMPTS):
            known = self.version
            patiently(self.delta.update_incremental)
            if self.version != known:
                self._check_lease()
            version = self.version
            add, remove, result = self.settled(plan)
            if not add and not remove:
                return result
            try:
                actions = (
                    [_added(part, changes_rows) for part in add],
                    [_removed(part, changes_rows) for part in remove],
                )
                self._write([*actions[0], *actions[1]], run_id, only_after=version)
                return result
            except _Moved:
                time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))
        raise JobFailed(
            f"other programs have changed the table {_REPLACE_ATTEMPTS} times while it was rewritten; "
            "the same command takes it up"
        )

    def set_properties(self, properties: Mapping[str, str], run_id: str) -> None:
        """Set properties of the table."""
        self.once(
            lambda made: self.delta.alter.set_table_properties(
                dict(properties), raise_if_not_exists=False, commit_properties=made
            ),
            run_id,
        )

    def apply_vectors(self, parts: Sequence[Part], run_id: str) -> None:
        """Rewrite files with deletion vectors, if there are any, without the rows that another tool has deleted.

        A file can be removed only together with its vector, which delta-rs does not offer. Its ``z_order`` rewrites all
        files of a partition; its ``compact`` would leave single files as they are.
        """
        for model in sorted({part.model for part in parts if part.kept is not None and part.model is not None}):
            self.once(
                lambda made, model=model: self.delta.optimize.z_order(
                    ["uri"], partition_filters=[(PARTITION, "=", model)], commit_properties=made
                ),
                run_id,
            )

    def settled(self, read: Callable[[], T]) -> T:
        """Call ``read``, which reads files of the table, again if another tool has replaced the files meanwhile.

        `JobFailed` if a file is not there although the newest version names it.
        """
        while True:
            version = self.version
            try:
                return read()
            except FileNotFoundError as reason:
                patiently(self.delta.update_incremental)
                if self.version == version:
                    raise JobFailed(
                        "the table names a file that is not there; verify --repair takes it out of the table, and the "
                        "next run makes its rows again"
                    ) from reason

    def once(self, commit: Callable[[CommitProperties], Any], run_id: str, *, only_after: int | None = None) -> None:
        """Make one commit, or raise `LeaseLost`. If the answer is lost, look for the commit before trying again.

        Delta refuses a commit if another commit with our application id was made after the version that we know. So
        the number of the newest lease, which requires reading the log, is checked only if another commit came between.
        ``only_after``: the version that the commit must follow directly; `_Moved` if there is a newer one.
        """
        if self._is_lost:
            raise LeaseLost("the lease on the table was lost before")
        delta, token = self.delta, uuid.uuid4().hex
        known = delta.version()
        properties = CommitProperties(
            custom_metadata={"run_id": run_id, TOKEN: token},
            app_transactions=None if self._lease is None else [Transaction(_LEASE, self._lease)],
            max_commit_retries=None if only_after is None else 0,
        )

        def attempt(_: float) -> None:
            nonlocal known
            try:
                commit(properties)
                patiently(delta.update_incremental)
            except (DeltaError, OSError):
                if self._has_landed(token):
                    return
                self._check_lease()
                known = delta.version()
                if only_after is not None and known != only_after:
                    raise _Moved from None
                raise

        storage.retry(attempt, _judge, _COMMIT_DEADLINE_S)
        self.sync()
        if delta.version() != known + 1:
            self._check_lease()

    def sync(self) -> None:
        """Make what delta-rs has written outlast a power cut: a commit, a checkpoint. Parts do before a commit."""
        if not storage.is_local(self._uri):
            return
        if self._durable is None:
            self._durable = durable_commits(self.delta)
        self._durable.discard("_last_checkpoint")  # it is written again
        storage.sync(storage.join(self._uri, "_delta_log"), self._durable)

    def _write(self, actions: list[AddAction | RemoveAction], run_id: str, *, only_after: int | None = None) -> None:
        def commit(properties: CommitProperties) -> None:
            self.delta.create_write_transaction(
                actions,
                mode="append",
                schema=self._columns,
                partition_by=[PARTITION],
                commit_properties=properties,
            )

        self.once(commit, run_id, only_after=only_after)

    def _check_lease(self) -> None:
        newest = self.newest_lease()
        if self._lease is not None and newest is not None and newest > self._lease:
            self._is_lost = True
            raise LeaseLost(f"lease {newest} has taken the table over from lease {self._lease}")

    def _has_landed(self, token: str) -> bool:
        patiently(self.delta.update_incremental)
        return any(entry.get(TOKEN) == token for entry in patiently(lambda: self.delta.history(20)))


def _added(part: Part, changes_rows: bool = True) -> AddAction:
    # delta-rs encodes the path for the log.
    statistics = json.dumps({"numRecords": part.rows})
    return AddAction(part.file, part.size, {PARTITION: part.model}, _now_ms(), changes_rows, statistics)


def _removed(part: Part, changes_rows: bool = True) -> RemoveAction:
    assert part.kept is None, "a file with a deletion vector cannot be removed without it"
    return RemoveAction(part.file, changes_rows, _now_ms(), part.size, {PARTITION: part.model})


def _now_ms() -> int:
    return int(time.time() * 1000)


def _judge(reason: Exception) -> storage.Verdict:
    return "transient" if isinstance(reason, DeltaError | OSError) else "final"
