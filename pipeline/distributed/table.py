"""Table: ``SINK/table``, a Delta Lake table partitioned by model. It is the output and the ledger at once.

Parts are Parquet files that workers write; they exist for readers only once the driver has committed them. Schema and
rules are in the README under "The table".
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from pipeline import storage
from pipeline.distributed.lease import LeaseLost
from pipeline.distributed.ledger import INPUT_KEY, VERSION_KEY, Held, KeySet, keys
from pipeline.distributed.parallel import ordered
from pipeline.errors import RequestError
from pipeline.task import ERROR_TYPE

T = TypeVar("T")

KEY_COLUMNS = pa.schema([("uri", pa.string()), ("member", pa.string()), ("etag", pa.string()), ("size", pa.int64())])
PROVENANCE_COLUMNS = pa.schema(
    [("model", pa.string()), ("settings", pa.string()), ("run_id", pa.string()), ("error", ERROR_TYPE)]
)
_LEASE = "parquetry-lease"  # the application whose transactions are the numbers of leases
_COMMIT_ATTEMPTS = 6
_READ_ATTEMPTS = 9
_THREADS = 16
_WHOLE_BYTES = 4 << 20  # parts up to this size are read in one request


@dataclass(frozen=True, kw_only=True)
class Part:
    """One written Parquet file: path below the table's folder, bytes, rows, and the model it belongs to."""

    path: str
    size: int
    rows: int
    model: str


def table_schema(task_columns: pa.Schema, features: dict[str, Any]) -> pa.Schema:
    """The whole table's schema: key, the task's columns, provenance; with Hugging Face features in its metadata.

    ``features``: by column, the features that do not follow from the Arrow type (``{"mask": {"_type": "Image"}}``).
    """
    return with_features(pa.schema([*KEY_COLUMNS, *task_columns, *PROVENANCE_COLUMNS]), features)


def with_features(schema: pa.Schema, features: dict[str, Any]) -> pa.Schema:
    """The schema with Hugging Face features in its metadata; ``features`` as for `table_schema`."""
    described = {field.name: features.get(field.name) or _feature(field.type) for field in schema}
    return schema.with_metadata({b"huggingface": json.dumps({"info": {"features": described}}).encode()})


class Table:
    """The table of one sink."""

    def __init__(self, sink: str, schema: pa.Schema) -> None:
        """Open or describe it; nothing is written before `create`. `RequestError` if it has other columns."""
        self.uri = storage.join(sink, "table")
        self.schema = schema
        self._lease: int | None = None
        self._is_lost = False
        self._options = storage.delta_options(self.uri)
        self._delta = _open(self.uri, self._options)
        if self._delta is not None:
            found = pa.schema(self._delta.schema().to_arrow())
            if found.names != schema.names:
                differing = sorted(set(found.names) ^ set(schema.names)) or found.names
                raise RequestError(f"sink {sink!r} holds a table of another kind: columns {', '.join(differing)}")

    def create(self) -> None:
        """Make the empty table if there is none."""
        if self._delta is None:
            if storage.is_local(self.uri):
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            self._delta = _patiently(
                lambda: DeltaTable.create(
                    self.uri,
                    schema=self.schema.remove_metadata(),
                    partition_by=["model"],
                    mode="ignore",
                    storage_options=self._options,
                )
            )

    def fence(self, lease: int, run_id: str) -> None:
        """From now on only runs with this lease's number, or a higher one, can commit.

        A commit of its own says so, before the table is read: a run that lost its lease meets it, whatever version of
        the table it has seen (the Delta protocol's transaction identifiers). `LeaseLost` if this number is the lower.
        """
        assert self._delta is not None, "create() first"
        self._lease = lease
        _patiently(self._delta.update_incremental)
        self._check_lease()
        self._transact([], run_id)

    def last_run_id(self) -> str:
        """The run that made the newest commit, or an empty string."""
        if self._delta is None:
            return ""
        delta = self._delta
        return max((str(entry.get("run_id") or "") for entry in _patiently(lambda: delta.history(2))), default="")

    def write_part(self, rows: pa.Table, run_id: str, model: str) -> Part:
        """Write rows of one model as a part that nobody sees yet. Callable from any worker."""
        return write_part(self.uri, rows.cast(self.schema), run_id, model)

    def commit(self, add: Sequence[Part], remove: Sequence[Part] = (), *, run_id: str) -> None:
        """Make parts visible, and others invisible, in one transaction."""
        if remove:
            # delta-rs accepts a Remove of a path that is not in the log without a word.
            known = {part.path for part in self._parts()}
            assert all(part.path in known for part in remove), "a part to remove is not in the log"
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(part.path, part.size, {"model": part.model}, now, True, json.dumps({"numRecords": part.rows}))
            for part in add
        ]
        actions += [RemoveAction(part.path, True, now, part.size, {"model": part.model}) for part in remove]
        self._transact(actions, run_id)

    def _transact(self, actions: list[AddAction | RemoveAction], run_id: str) -> None:
        """One commit, or `LeaseLost`. A commit whose answer was lost is looked for, and not made twice.

        Delta refuses a commit if another one with our application has come since the version that we know. So the
        number of the newest lease, which costs reading the log, is looked at only where a version was not our own.
        """
        assert self._delta is not None, "create() first"
        if self._is_lost:
            raise LeaseLost("the lease on the table was lost before")
        token = uuid.uuid4().hex
        known = self._delta.version()
        transactions = None if self._lease is None else [Transaction(_LEASE, self._lease)]
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            try:
                self._delta.create_write_transaction(
                    actions,
                    mode="append",
                    schema=self.schema.remove_metadata(),
                    partition_by=["model"],
                    commit_properties=CommitProperties(
                        custom_metadata={"run_id": run_id, "commit": token}, app_transactions=transactions
                    ),
                )
                _patiently(self._delta.update_incremental)
                break
            except (DeltaError, OSError):
                if self._has_landed(token):
                    break
                self._check_lease()
                if attempt == _COMMIT_ATTEMPTS:
                    raise
                known = self._delta.version()
                time.sleep(random.uniform(0, 0.2 * 2**attempt))
        if self._delta.version() != known + 1:
            self._check_lease()

    def _check_lease(self) -> None:
        assert self._delta is not None
        delta = self._delta
        newest = _patiently(lambda: delta.transaction_version(_LEASE))
        if self._lease is not None and newest is not None and newest > self._lease:
            self._is_lost = True
            raise LeaseLost(f"lease {newest} has taken the table over from lease {self._lease}")

    def _has_landed(self, token: str) -> bool:
        assert self._delta is not None
        delta = self._delta
        _patiently(delta.update_incremental)
        return any(entry.get("commit") == token for entry in _patiently(lambda: delta.history(20)))

    def held(self, model: str, settings: str, *, every_model: bool = False) -> Held:
        """What the table holds for a run. It reads each part of this model once, or each part of ``every_model``."""
        inputs, sound, failed, others = [], [], [], []
        for part, rows in self._scan([part for part in self._parts() if every_model or part.model == model]):
            version, is_sound = keys(rows, VERSION_KEY), rows["error"].is_null().to_numpy()
            mine = _is_of(part, rows, model, settings)
            inputs.append(keys(rows, INPUT_KEY))
            sound.append(version[mine & is_sound])
            failed.append(version[mine & ~is_sound])
            others.append(version[~mine])
        return Held(inputs=KeySet(inputs), sound=KeySet(sound), failed=KeySet(failed), others=KeySet(others))

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
        """Remove the rows of ``listed`` inputs (`INPUT_KEY`) that are not their current row; return how many.

        The current row of a listed input has this model, these settings and the tag in ``current`` (`VERSION_KEY`);
        of several, the newest run's. Rows of inputs that were not listed stay. One commit; affected files are written
        anew by our own writer, because delta-rs drops the metadata that makes a mask a picture.

        ``own_parts``: whether to read this model's parts too. Not needed where `held` has found nothing `outdated`.
        """
        parts = [part for part in self._parts() if own_parts or part.model != model]
        keep = self._rows_to_keep(parts, listed, current, model, settings)
        remove = [part for part in parts if not keep[part.path].all()]

        def rewrite(part: Part) -> Part | None:
            if not keep[part.path].any():
                return None
            rows = self._read(part).filter(pa.array(keep[part.path]))
            return write_part(self.uri, rows, run_id, part.model)

        add = [part for part in ordered(rewrite, remove, _THREADS) if part is not None]
        if remove:
            self.commit(add, remove, run_id=run_id)
        return sum(int((~keep[part.path]).sum()) for part in remove)

    def remove_orphans(self, run_ids: Iterable[str]) -> int:
        """Delete the part files of these runs that no commit has made visible. Not for runs that are still going on."""
        visible = {part.path for part in self._parts()}
        models = [name for name in storage.names(self.uri) if name.startswith("model=")]
        pages = (
            page
            for run_id in run_ids
            for model in models
            for page in storage.walk(storage.join(self.uri, model), f"{run_id}-")
        )
        return _delete(
            uri for page in pages for uri in page["uri"].to_pylist() if uri[len(self.uri) + 1 :] not in visible
        )

    def _rows_to_keep(
        self, parts: list[Part], listed: KeySet, current: KeySet, model: str, settings: str
    ) -> dict[str, np.ndarray]:
        keep: dict[str, np.ndarray] = {}
        candidates: list[tuple[np.ndarray, np.ndarray, str, np.ndarray]] = []
        for part, rows in self._scan(parts):
            version = keys(rows, VERSION_KEY)
            mine = _is_of(part, rows, model, settings) & current.contains(version)
            keep[part.path] = ~listed.contains(keys(rows, INPUT_KEY)) | mine
            where = np.flatnonzero(mine)
            candidates.append((version[where], where, part.path, np.asarray(rows["run_id"].to_pylist(), str)[where]))
        if not candidates:
            return keep
        version = np.concatenate([item[0] for item in candidates])
        run = np.concatenate([item[3] for item in candidates])
        owner = np.concatenate([np.full(len(item[1]), number) for number, item in enumerate(candidates)])
        row = np.concatenate([item[1] for item in candidates])
        order = np.lexsort((run, version[:, 1], version[:, 0]))
        same_as_next = (version[order[:-1]] == version[order[1:]]).all(1)
        for index in order[:-1][same_as_next]:  # an older run's row of the same version: a retried error
            keep[candidates[owner[index]][2]][row[index]] = False
        return keep

    def _scan(self, parts: list[Part]) -> Iterator[tuple[Part, pa.Table]]:
        """The key and provenance columns of each part."""
        columns = ["uri", "member", "etag", "settings", "run_id", "error"]
        yield from ordered(lambda part: (part, self._read(part, columns)), parts, _THREADS)

    def _parts(self) -> list[Part]:
        return [] if self._delta is None else _parts(self._delta)

    def _read(self, part: Part, columns: list[str] | None = None) -> pa.Table:
        uri = storage.join(self.uri, part.path)
        if part.size <= _WHOLE_BYTES:
            return pq.ParquetFile(pa.BufferReader(storage.read(uri))).read(columns)
        with storage.open_file(uri) as file:
            return pq.ParquetFile(file).read(columns)


def write_part(table_uri: str, rows: pa.Table, run_id: str, model: str) -> Part:
    """Write one part file under a name that no other attempt has."""
    path = f"model={model}/{run_id}-{uuid.uuid4().hex}.parquet"
    buffer = pa.BufferOutputStream()
    # By column, because the bytes of a PNG are compressed already.
    options: dict[str, Any] = {
        "compression": {name: "none" if name == "mask.bytes" else "zstd" for name in _leaves(rows.schema)},
        "use_dictionary": ["uri", "model", "settings", "run_id"],
    }
    pq.write_table(rows, buffer, **options)
    data = buffer.getvalue().to_pybytes()
    storage.write(storage.join(table_uri, path), data)
    return Part(path=path, size=len(data), rows=rows.num_rows, model=model)


def open_delta(sink: str) -> DeltaTable:
    """The sink's table for readers (``.file_uris()``, ``.to_pyarrow_dataset()``). `RequestError` if there is none."""
    uri = storage.join(sink, "table")
    delta = _open(uri, storage.delta_options(uri))
    if delta is None:
        raise RequestError(f"no table at {uri}")
    return delta


def parts_of(sink: str) -> list[Part]:
    """The committed part files of a sink's table, as its log describes them."""
    return _parts(open_delta(sink))


def vacuum(sink: str) -> int:
    """Delete every file below the table that no version of it names; how many. Not while a run is going on."""
    delta, uri = open_delta(sink), storage.join(sink, "table")
    named = {part.path for part in _parts(delta)}
    # What a later version removed stays for readers of the earlier ones.
    removed = _patiently(lambda: delta.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False))
    named.update(removed)
    models = [name for name in storage.names(uri) if name.startswith("model=")]
    pages = (page for model in models for page in storage.walk(storage.join(uri, model)))
    return _delete(found for page in pages for found in page["uri"].to_pylist() if found[len(uri) + 1 :] not in named)


def current_rows(rows: pa.Table) -> pa.Table:
    """Of several rows of one input, the newest run's. What a reader needs after ``--superseded keep``."""
    newest_first = rows.sort_by([("run_id", "descending")])
    identity = keys(newest_first, INPUT_KEY)
    _, first = np.unique(identity, axis=0, return_index=True)
    return newest_first.take(np.sort(first))


def _open(uri: str, options: dict[str, str]) -> DeltaTable | None:
    try:
        return _patiently(lambda: DeltaTable(uri, storage_options=options))
    except TableNotFoundError:
        return None
    except DeltaError as reason:
        raise RequestError(f"the table at {uri} cannot be opened") from reason


def _parts(delta: DeltaTable) -> list[Part]:
    actions = pa.table(_patiently(lambda: delta.get_add_actions(flatten=True)))
    columns = ("path", "size_bytes", "num_records", "partition.model")
    values = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    return [Part(path=path, size=size, rows=rows, model=model) for path, size, rows, model in values]


def _delete(uris: Iterable[str]) -> int:
    def delete(uri: str) -> int:
        storage.delete(uri)
        return 1

    return sum(ordered(delete, uris, _THREADS))


def _patiently(run: Callable[[], T]) -> T:
    """What delta-rs is asked for again where the store failed: it does not repeat a read whose answer was cut off."""
    for attempt in range(_READ_ATTEMPTS):
        try:
            return run()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if attempt == _READ_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, min(10, 0.2 * 2**attempt)))
    raise AssertionError


def _is_of(part: Part, rows: pa.Table, model: str, settings: str) -> np.ndarray:
    """Which rows of a part are of a model and settings: booleans (rows,)."""
    return (rows["settings"].to_numpy() == settings) & (part.model == model)


def _leaves(schema: pa.Schema) -> list[str]:
    names = []
    for field in schema:
        names += _leaf_paths(field.name, field.type)
    return names


def _leaf_paths(prefix: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [path for child in kind for path in _leaf_paths(f"{prefix}.{child.name}", child.type)]
    if pa.types.is_list(kind):
        return _leaf_paths(f"{prefix}.list.element", kind.value_type)
    return [prefix]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The Hugging Face feature of an Arrow type."""
    if pa.types.is_struct(kind):
        return {child.name: _feature(child.type) for child in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
