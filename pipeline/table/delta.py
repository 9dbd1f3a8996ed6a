"""The table ``SINK/table``: a Delta Lake table that is partitioned by model. It is a run's output and its ledger.

Workers write its parts, which are Parquet files. Readers see a part only after the driver has committed it.
``docs/table.md`` describes the columns and the rules.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from pipeline import storage
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.storage.threads import ordered
from pipeline.table.lease import LeaseLost
from pipeline.table.ledger import TableContents
from pipeline.table.log import columns_of, committed_parts, lost_files, opened, patiently
from pipeline.table.parts import THREADS, Part, read_part, scan, write_part
from pipeline.table.schema import TableSchema
from pipeline.table.supersede import is_of, rows_to_keep

_LEASE = "parquetry-lease"  # application id of the Delta transactions whose versions are numbers of leases
_COMMIT_DEADLINE_S = 20.0


class Table:
    """The table of one sink.

    A run calls `create` and then `fence`; after that it may commit.
    """

    def __init__(self, sink: str, schema: TableSchema) -> None:
        """Open the table if it exists. Nothing is written before `create`.

        `RequestError` if it is a table of another task, or if a column has another type.
        """
        self.uri = storage.join(sink, "table")
        self.schema = schema
        self.new_columns: list[str] = []
        """Columns of ``schema`` that the existing table lacks; `fence` adds them."""
        self._lease: int | None = None
        self._is_lost = False
        self._sink = sink
        self._durable: set[str] = set()  # names in the log that are known to be on the disk
        self.lost = lost_files(self.uri)
        """Files of the log that a power cut took; `create` removes them, and until then the table counts as empty."""
        self._delta = None
        if not self.lost:
            self._open()

    def _open(self) -> None:
        self._delta = opened(self.uri)
        if self._delta is not None:
            found, schema = columns_of(self._delta), self.schema
            self.schema = schema.within(found, self._sink)
            self.new_columns = [name for name in schema.names if name not in found.names]

    def create(self) -> None:
        """Create an empty table if there is none. The lease must be held."""
        if self.lost:
            storage.delete_all(lost_files(self.uri))
            self.lost = []
            self._open()
        if self._delta is None:
            if storage.is_local(self.uri):
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            self._delta = patiently(
                lambda: DeltaTable.create(
                    self.uri,
                    schema=self.schema.columns.remove_metadata(),
                    partition_by=["model"],
                    mode="ignore",
                    storage_options=storage.delta_options(self.uri),
                )
            )
            self._sync_log()

    def fence(self, lease: int, run_id: str) -> None:
        """Allow commits only to runs with this lease number or a higher one, and add `new_columns`.

        This is a commit of its own, before the table is read, by the transaction identifiers of the Delta protocol. A
        run that has lost its lease conflicts with it, whatever version of the table that run has seen. `LeaseLost` if
        the table has a higher number already.
        """
        self._lease = lease
        patiently(self._opened().update_incremental)
        self._check_lease()
        self._transact([], run_id)
        if self.new_columns:
            self._add_columns(run_id)

    def last_run_id(self) -> str:
        """The name of the run that made the newest commit, or an empty string."""
        if self._delta is None:
            return ""
        delta = self._delta
        return max((str(entry.get("run_id") or "") for entry in patiently(lambda: delta.history(2))), default="")

    def write_part(self, rows: pa.Table, run_id: str, model: str) -> Part:
        """Write rows of one model as a part file, which readers do not see before it is committed. For all workers."""
        return write_part(self.uri, self.schema, rows, run_id, model)

    def commit(self, add: Sequence[Part], remove: Sequence[Part] = (), *, run_id: str) -> None:
        """Add parts to the table, and remove others, in one transaction."""
        if remove:
            # delta-rs silently accepts the removal of a path that is not in the log.
            known = {part.path for part in self._parts()}
            assert all(part.path in known for part in remove), "a part to remove is not in the log"
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(part.path, part.size, {"model": part.model}, now, True, json.dumps({"numRecords": part.rows}))
            for part in add
        ]
        actions += [RemoveAction(part.path, True, now, part.size, {"model": part.model}) for part in remove]
        self._transact(actions, run_id)

    def contents(self, model: str, settings: str, *, every_model: bool = False) -> TableContents:
        """The contents of the table, as a run with this model and these settings needs them.

        It reads all parts of this model once; with ``every_model``, the parts of all models.
        """
        inputs, sound, failed = [], [], []
        others: dict[tuple[str, str], list[np.ndarray]] = {}
        for part, rows in scan(self.uri, [part for part in self._parts() if every_model or part.model == model]):
            version, is_sound = keys(rows, VERSION_KEY), rows["error"].is_null().to_numpy()
            mine = is_of(part, rows, model, settings)
            inputs.append(keys(rows, INPUT_KEY))
            sound.append(version[mine & is_sound])
            failed.append(version[mine & ~is_sound])
            theirs = rows["settings"].to_numpy()
            for other in np.unique(theirs[~mine].astype(str)).tolist():
                others.setdefault((part.model, other), []).append(version[~mine & (theirs == other)])
        return TableContents(
            inputs=KeySet(inputs),
            sound=KeySet(sound),
            failed=KeySet(failed),
            others={kind: KeySet(found) for kind, found in others.items()},
        )

    def supersede(
        self,
        listed: KeySet,
        current: KeySet,
        *,
        model: str,
        settings: str,
        run_id: str,
        own_parts: bool,
    ) -> int:
        """Remove the superseded rows of ``listed`` inputs (see `rows_to_keep`) in one commit; returns their number.

        Files with such rows are rewritten by `write_part`, because delta-rs would drop the metadata that marks a mask
        as a picture. ``own_parts``: whether to read the parts of this model, too. That is not needed if
        `TableContents.outdated` is False, since they then have no older row.
        """
        parts = [part for part in self._parts() if own_parts or part.model != model]
        keep = rows_to_keep(scan(self.uri, parts), listed, current, model, settings)
        remove = [part for part in parts if not keep[part.path].all()]

        def rewrite(part: Part) -> Part | None:
            if not keep[part.path].any():
                return None
            rows = read_part(self.uri, part).filter(pa.array(keep[part.path]))
            return self.write_part(rows, run_id, part.model)

        add = [part for part in ordered(rewrite, remove, THREADS) if part is not None]
        if remove:
            self.commit(add, remove, run_id=run_id)
        return sum(int((~keep[part.path]).sum()) for part in remove)

    def remove_orphans(self, run_ids: Iterable[str]) -> int:
        """Delete the part files of runs that have ended if they were never committed; returns their number."""
        visible = {part.path for part in self._parts()}
        models = [name for name in storage.names(self.uri) if name.startswith("model=")]
        pages = (
            page
            for run_id in run_ids
            for model in models
            for page in storage.walk(storage.join(self.uri, model), f"{run_id}-")
        )
        found = (file for page in pages for file in page["uri"].to_pylist())
        return storage.delete_all(file for file in found if file[len(self.uri) + 1 :] not in visible)

    def _add_columns(self, run_id: str) -> None:
        delta = self._opened()
        wanted = deltalake.Schema.from_arrow(self.schema.columns.remove_metadata())
        fields = [field for field in wanted.fields if field.name in self.new_columns]
        self._once(lambda properties: delta.alter.add_columns(fields, commit_properties=properties), run_id)

    def _transact(self, actions: list[AddAction | RemoveAction], run_id: str) -> None:
        delta = self._opened()
        self._once(
            lambda properties: delta.create_write_transaction(
                actions,
                mode="append",
                schema=self.schema.columns.remove_metadata(),
                partition_by=["model"],
                commit_properties=properties,
            ),
            run_id,
        )

    def _once(self, commit: Callable[[CommitProperties], Any], run_id: str) -> None:
        """Make one commit, or raise `LeaseLost`. If the answer is lost, look for the commit before trying again.

        Delta refuses a commit if another commit with our application id was made after the version that we know. So
        the number of the newest lease, which requires reading the log, is checked only if another commit came between.
        """
        if self._is_lost:
            raise LeaseLost("the lease on the table was lost before")
        delta, token = self._opened(), uuid.uuid4().hex
        known = delta.version()
        transactions = None if self._lease is None else [Transaction(_LEASE, self._lease)]
        properties = CommitProperties(
            custom_metadata={"run_id": run_id, "commit": token}, app_transactions=transactions
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
                raise

        storage.retry(attempt, _judge, _COMMIT_DEADLINE_S)
        self._sync_log()
        if delta.version() != known + 1:
            self._check_lease()

    def _sync_log(self) -> None:
        """Make what delta-rs has written outlast a power cut: a commit, a checkpoint. Parts do before a commit."""
        self._durable.discard("_last_checkpoint")  # it is written again
        storage.sync(storage.join(self.uri, "_delta_log"), self._durable)

    def _check_lease(self) -> None:
        delta = self._opened()
        newest = patiently(lambda: delta.transaction_version(_LEASE))
        if self._lease is not None and newest is not None and newest > self._lease:
            self._is_lost = True
            raise LeaseLost(f"lease {newest} has taken the table over from lease {self._lease}")

    def _has_landed(self, token: str) -> bool:
        delta = self._opened()
        patiently(delta.update_incremental)
        return any(entry.get("commit") == token for entry in patiently(lambda: delta.history(20)))

    def _opened(self) -> DeltaTable:
        assert self._delta is not None, "create() first"
        return self._delta

    def _parts(self) -> list[Part]:
        return [] if self._delta is None else committed_parts(self._delta)


def _judge(reason: Exception) -> storage.Verdict:
    return "transient" if isinstance(reason, DeltaError | OSError) else "final"
