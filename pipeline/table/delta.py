"""The table ``SINK/table``: a Delta Lake table that is partitioned by model. It is a run's output and its ledger.

Workers write its parts, which are Parquet files. Readers see a part only after the driver has committed it.
``docs/table.md`` describes the columns and the rules.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from pipeline import storage
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.storage.threads import ordered
from pipeline.table.commits import Commits
from pipeline.table.ledger import TableContents
from pipeline.table.log import (
    PARTITION,
    Change,
    changes_of_others,
    columns_of,
    committed_parts,
    lost_files,
    named_files,
    opened,
    patiently,
    properties_of,
)
from pipeline.table.names import is_run_name
from pipeline.table.parts import (
    THREADS,
    Part,
    PartWriter,
    description_of,
    gathered,
    pieces,
    read_part,
    scan,
    write_part,
)
from pipeline.table.schema import TableSchema, property_of
from pipeline.table.supersede import is_of, rows_to_keep, run_ids

_ROWS_TOGETHER = 1 << 14  # whose keys are made at once
_REWRITTEN_BYTES = 256 << 20  # of the files that are rewritten at the same time


class Table:
    """The table of one sink.

    A run calls `create` and then `fence`; after that it may commit.
    """

    def __init__(self, sink: str, schema: TableSchema) -> None:
        """Open the table if it exists. Nothing is written before `create`.

        `RequestError` if it is a table of another task, or if a column has another type.
        """
        self.uri = storage.join(sink, "table")
        self._runs = storage.join(sink, "runs")
        self.schema = schema
        self.new_columns: list[str] = []
        """Columns of ``schema`` that the existing table lacks; `fence` adds them."""
        self._sink = sink
        self._commits: Commits | None = None
        self.lost = lost_files(self.uri)
        """Files of the log that a power cut took; `create` removes them, and until then the table counts as empty."""
        if not self.lost:
            self._open()

    def _open(self) -> None:
        delta = opened(self.uri)
        if delta is not None:
            found, schema = columns_of(delta), self.schema
            self.schema = schema.within(found, self._sink)
            self.new_columns = [name for name in schema.names if name not in found.names]
            self._commits = Commits(self.uri, delta, self.schema.columns)

    @property
    def commits(self) -> Commits:
        """The commits of this process to the table, which exists."""
        assert self._commits is not None, "create() first"
        return self._commits

    @property
    def version(self) -> int:
        """The number of the newest version that is known here; -1 if there is no table."""
        return -1 if self._commits is None else self._commits.version

    def last_lease(self) -> int:
        """The number of the newest lease whose holder has committed; 0 if there is none."""
        return 0 if self._commits is None else self._commits.newest_lease() or 0

    def create(self) -> None:
        """Create an empty table if there is none. The lease must be held."""
        if self.lost:
            storage.delete_all(lost_files(self.uri))
            self.lost = []
            self._open()
        if self._commits is None:
            if storage.is_local(self.uri):
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            delta = patiently(
                lambda: DeltaTable.create(
                    self.uri,
                    schema=self.schema.columns.remove_metadata(),
                    partition_by=[PARTITION],
                    mode="ignore",
                    configuration=self._meanings(),
                    raise_if_key_not_exists=False,
                    storage_options=storage.delta_options(self.uri),
                )
            )
            self._commits = Commits(self.uri, delta, self.schema.columns)
            self._commits.sync()

    def fence(self, lease: int, run_id: str) -> None:
        """Allow commits only to runs with this lease number or a higher one. Add `new_columns`, and what the values of
        the schema's model mean."""
        self.commits.fence(lease, run_id)
        if self.new_columns:
            self._add_columns(run_id)
        self.set_properties(self._meanings(), run_id)

    def set_properties(self, properties: Mapping[str, str], run_id: str) -> None:
        """Set properties of the table in one commit, unless it has them."""
        if properties.items() - self.properties.items():
            self.commits.set_properties(properties, run_id)

    @property
    def properties(self) -> dict[str, str]:
        """The properties of the table."""
        return {} if self._commits is None else properties_of(self._commits.delta)

    def schema_of(self, part: Part, table_uri: str | None = None) -> TableSchema:
        """The schema for a file with rows of an existing part.

        It says of their values what the table says of the part's model, or else what the part says. ``table_uri``: the
        table of the part; None: this one.
        """
        known = self.properties.get(property_of(part.model or ""))
        found = description_of(table_uri or self.uri, part) if known is None else known.encode()
        return self.schema.described(found)

    def last_run_id(self) -> str:
        """The greatest name of a run of this sink, or an empty string.

        It stands in the log if the run made one of the last commits, and in names of files and folders: commits of
        other tools have no name of a run, and files that they rewrote have none, either.
        """
        if self._commits is None:
            return ""
        delta = self._commits.delta
        names = [str(entry.get("run_id") or "") for entry in patiently(lambda: delta.history(2))]
        names += filter(is_run_name, storage.names(self._runs))
        files = (part.file.rpartition("/")[2].rpartition("-")[0] for part in self.parts())
        return max([*names, *filter(is_run_name, files)], default="")

    def changes_of_others(self, since: int) -> list[Change]:
        """The commits after version ``since`` that another tool made."""
        return [] if self._commits is None else changes_of_others(self._commits.delta, since)

    def write_part(self, rows: pa.Table, run_id: str, model: str) -> Part:
        """Write rows of one model as a part file, which readers do not see before it is committed. For all workers."""
        return write_part(self.uri, self.schema, rows, run_id, model)

    def commit(self, add: Sequence[Part], *, run_id: str) -> None:
        """Add parts to the table in one transaction."""
        self.commits.append(add, run_id)

    def contents(self, model: str, settings: str, *, every_model: bool = False) -> TableContents:
        """The contents of the table, as a run with this model and these settings needs them.

        It reads all parts of this model once; with ``every_model``, the parts of all models.
        """
        if self._commits is None:
            return self._contents(model, settings, every_model)
        return self._commits.settled(lambda: self._contents(model, settings, every_model))

    def _contents(self, model: str, settings: str, every_model: bool) -> TableContents:
        inputs, sound, failed = [], [], []
        others: dict[tuple[str, str], list[np.ndarray]] = {}
        parts = [part for part in self.parts() if every_model or part.model == model]
        for part, rows in _together(scan(self.uri, parts)):
            version, is_sound = keys(rows, VERSION_KEY), rows["error"].is_null().to_numpy()
            mine = is_of(part, rows, model, settings)
            inputs.append(keys(rows, INPUT_KEY))
            sound.append(version[mine & is_sound])
            failed.append(version[mine & ~is_sound])
            if mine.all():
                continue
            theirs = rows["settings"].to_numpy()
            for other in np.unique(theirs[~mine].astype(str)).tolist():
                others.setdefault((part.model or "", other), []).append(version[~mine & (theirs == other)])
        sets = []
        for found in (inputs, sound, failed):
            sets.append(KeySet(found))
            found.clear()  # each is as large as the set
        return TableContents(
            inputs=sets[0],
            sound=sets[1],
            failed=sets[2],
            others={kind: KeySet(found) for kind, found in others.items()},
        )

    def other_inputs(self, model: str) -> KeySet:
        """The inputs (`INPUT_KEY`) of the rows of all models but this one."""

        def read() -> KeySet:
            others = [part for part in self.parts() if part.model != model]
            found = ordered(lambda part: read_part(self.uri, part, list(INPUT_KEY)), others, THREADS)
            return KeySet(keys(rows, INPUT_KEY) for rows in found)

        return KeySet() if self._commits is None else self._commits.settled(read)

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

        def plan() -> tuple[list[Part], list[Part], int]:
            parts = [part for part in self.parts() if own_parts or part.model != model]
            keep = rows_to_keep(scan(self.uri, parts), listed, current, model, settings)
            remove = [part for part in parts if not keep[part.path].all()]
            add = self.rewritten(remove, keep, run_id)
            return add, remove, sum(int((~keep[part.path]).sum()) for part in remove)

        self.commits.apply_vectors(self.parts(), run_id)
        return self.commits.replace(plan, run_id)

    def lost_parts(self, run_id: str, model: str) -> list[Part]:
        """The parts of a run that the log names, but that are not there: another tool has deleted them before they were
        committed, as ``vacuum`` without a retention time does."""
        begins = f"model={model}/{run_id}-"
        mine = [part for part in self.parts() if part.file.startswith(begins)]
        if not mine:
            return []
        there = set(self._files([model], f"{run_id}-"))
        return [part for part in mine if part.uri(self.uri) not in there]

    def drop(self, parts: Sequence[Part], run_id: str) -> None:
        """Take parts out of the table whose files are not there."""
        gone = {part.path for part in parts}
        self.commits.replace(lambda: ([], [part for part in self.parts() if part.path in gone], None), run_id)

    def rows_of(self, run_id: str, model: str) -> tuple[KeySet, Counter[str]]:
        """The rows that a run has committed: their `VERSION_KEY`, and how many have failed, by error code."""

        def read() -> tuple[KeySet, Counter[str]]:
            versions, codes = [], Counter[str]()
            for _, rows in scan(self.uri, [part for part in self.parts() if part.model == model]):
                mine = rows.filter(pa.array(run_ids(rows) == run_id))
                versions.append(keys(mine, VERSION_KEY))
                codes.update(error["code"] for error in mine["error"].to_pylist() if error is not None)
            return KeySet(versions), codes

        return self.commits.settled(read)

    def remove_orphans(self, run_ids: Iterable[str]) -> int:
        """Delete the part files of runs that have ended if they were never committed; returns their number.

        Files that an earlier version of the table names stay.
        """
        visible = {part.uri(self.uri) for part in self.parts()}
        models = [name.removeprefix("model=") for name in storage.names(self.uri) if name.startswith("model=")]
        found = [file for run_id in run_ids for file in self._files(models, f"{run_id}-") if file not in visible]
        if not found:
            return 0
        earlier = {storage.join(self.uri, name) for name in named_files(self.commits.delta)}
        return storage.delete_all(file for file in found if file not in earlier)

    def rewritten(self, parts: Sequence[Part], keep: Mapping[str, np.ndarray], run_id: str) -> list[Part]:
        """Write new parts with those rows of ``parts`` to keep, by their paths."""

        def rewrite(part: Part) -> Part | None:
            left = keep[part.path]
            if not left.any():
                return None
            writer, start = PartWriter(self.uri, self.schema_of(part), run_id, part.model), 0
            for rows in gathered(pieces(self.uri, part)):
                end = start + rows.num_rows
                writer.add(rows.filter(pa.array(left[start:end])))
                start = end
            return writer.close()

        largest = max((part.size for part in parts), default=0)
        threads = min(THREADS, max(1, _REWRITTEN_BYTES // max(1, largest)))
        return [part for part in ordered(rewrite, parts, threads) if part is not None]

    def newest_paths(self) -> set[str]:
        """The paths of the committed parts, after the log was read again."""
        patiently(self.commits.delta.update_incremental)
        return {part.path for part in self.parts()}

    def parts(self) -> list[Part]:
        """The committed parts."""
        return [] if self._commits is None else committed_parts(self._commits.delta)

    def _files(self, models: Iterable[str], begins: str) -> Iterator[str]:
        for model in models:
            for page in storage.walk(storage.join(self.uri, f"model={model}"), begins):
                yield from page["uri"].to_pylist()

    def _meanings(self) -> dict[str, str]:
        """The property that says what the values of the schema's model mean; empty if the schema does not say it."""
        found = self.schema.description
        return {} if found is None else {property_of(json.loads(found)["model"]): found.decode()}

    def _add_columns(self, run_id: str) -> None:
        delta = self.commits.delta
        wanted = deltalake.Schema.from_arrow(self.schema.columns.remove_metadata())
        fields = [field for field in wanted.fields if field.name in self.new_columns]
        self.commits.once(lambda made: delta.alter.add_columns(fields, commit_properties=made), run_id)


def _together(scanned: Iterable[tuple[Part, pa.Table]]) -> Iterator[tuple[Part, pa.Table]]:
    """The rows of small parts of one model as one table, with the first of the parts."""
    waiting: list[tuple[Part, pa.Table]] = []
    count = 0
    for part, rows in scanned:
        if waiting and (count >= _ROWS_TOGETHER or waiting[0][0].model != part.model):
            yield waiting[0][0], pa.concat_tables(table for _, table in waiting)
            waiting, count = [], 0
        waiting.append((part, rows))
        count += rows.num_rows
    if waiting:
        yield waiting[0][0], pa.concat_tables(table for _, table in waiting)
