"""Audit: checks whether a table keeps its promises, from its files, its log, and the manifests of the runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import ERROR_CODES, InputError, JobFailed, RequestError
from pipeline.images.classification import label_problem
from pipeline.images.outputs import mask_problem
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.storage.columnar import own_file, read_parquet
from pipeline.storage.threads import ordered
from pipeline.table.log import Change, changes_of_others, columns_of, committed_parts
from pipeline.table.mending import is_foreign_schema
from pipeline.table.parts import Part, completed, pieces
from pipeline.table.readers import open_delta
from pipeline.table.supersede import run_ids
from pipeline.table.upkeep import removals
from pipeline.text.outputs import paragraphs_problem

EXAMPLES = 10
_THREADS = 8

#: Problems that an audit can find, and their meanings.
PROBLEMS = {
    "missing_file": "the log names a file that is not there or cannot be read",
    "wrong_count": "a file has another number of rows or bytes than the log says",
    "lost": "an input of a finished run has no row",
    "doubled": "one run wrote two rows for one input",
    "stale": "the row is older than a finished run that listed another version of the input",
    "superseded": "an older row of an input is left after a run that removes superseded rows",
    "unknown_model": "a row names a model and settings that no run used",
    "bad_error": "a row is neither done nor failed, or is both, or has an unknown error code",
    "bad_mask": "a mask does not decode, or is not what its row says",
    "bad_paragraphs": "paragraphs do not tile their document, or are not what their row says",
    "bad_label": "scores are no probabilities, or the confidence is not the largest of them",
}
#: By the column of the result: what is wrong with a row.
_PROBLEMS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "mask": mask_problem,
    "paragraphs": paragraphs_problem,
    "label": label_problem,
}


@dataclass
class Audit:
    """The result of an audit: counts of rows, inputs and runs; the number of each problem, and examples of it."""

    rows: int = 0
    inputs: int = 0
    done: int = 0
    failed: int = 0
    runs: int = 0
    changes: list[Change] = field(default_factory=list)
    """What other tools have done to the table, oldest first."""
    foreign_files: int = 0
    """Files that another tool wrote. Readers of Parquet do not see there which column is a picture."""
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, problem: str, names: list[str], count: int | None = None) -> None:
        assert problem in PROBLEMS, problem
        self.counts[problem] += len(names) if count is None else count
        room = EXAMPLES - len(self.examples[problem])
        self.examples[problem] += names[: max(0, room)]

    def summary(self) -> dict[str, Any]:
        problems = {
            name: {"count": self.counts[name], "meaning": PROBLEMS[name], "examples": self.examples[name]}
            for name in PROBLEMS
            if self.counts[name]
        }
        counted = {name: getattr(self, name) for name in ("rows", "inputs", "done", "failed", "runs")}
        others = {"other_tools": [str(change) for change in self.changes], "foreign_files": self.foreign_files}
        return {**counted, **others, "problems": problems}


@dataclass
class _Found:
    """The contents of one part file, or of some of its rows."""

    input: np.ndarray
    version: np.ndarray
    run: np.ndarray
    failed: np.ndarray
    kinds: set[tuple[str, str]]
    problems: list[tuple[str, str]]
    is_foreign: bool
    """Whether another tool wrote the file."""


def audit(sink: str) -> Audit:
    """Audit the table of a sink, reading each file once. `RequestError` if there is no table."""
    found = Audit()
    delta = open_delta(sink)
    parts, columns = committed_parts(delta), columns_of(delta)
    found.changes = changes_of_others(delta, 0)
    runs = _runs(sink)
    known = {(run["config"]["digest"], run["config"]["settings"]) for run in runs if run["config"]}
    seen: list[_Found] = []
    for part, item in ordered(lambda part: (part, _look(sink, part, columns)), parts, _THREADS):
        if item is None:
            found.add("missing_file", [part.path])
            continue
        for problem, name in item.problems:
            found.add(problem, [name])
        found.foreign_files += item.is_foreign
        for kind in item.kinds - known:
            found.add("unknown_model", [f"{part.path}: model {kind[0]}, settings {kind[1]}"])
        item.problems, item.kinds = [], set()
        seen.append(item)
    _compare(found, seen, [run for run in runs if run["done"]], sink)
    return found


def _look(sink: str, part: Part, columns: pa.Schema) -> _Found | None:
    table_uri = storage.join(sink, "table")
    try:
        size = storage.stat(part.uri(table_uri)).size
        found = [_look_at(rows, columns) for rows in pieces(table_uri, part)]
    except (OSError, InputError, JobFailed, RequestError, pa.ArrowException):
        return None
    problems = []
    rows = sum(len(item.input) for item in found) + (0 if part.kept is None else list(part.kept).count(False))
    if size != part.size or part.rows not in (None, rows):
        said = f"{part.rows} rows and {part.size} bytes"
        problems.append(("wrong_count", f"{part.path}: {rows} rows and {size} bytes, the log says {said}"))
    return _Found(
        np.concatenate([item.input for item in found]),
        np.concatenate([item.version for item in found]),
        np.concatenate([item.run for item in found]),
        np.concatenate([item.failed for item in found]),
        set().union(*(item.kinds for item in found)),
        problems + [problem for item in found for problem in item.problems],
        found[0].is_foreign,
    )


def _look_at(rows: pa.Table, columns: pa.Schema) -> _Found:
    """What is found in some rows of a file."""
    problems, is_foreign = [], is_foreign_schema(rows.schema)
    rows = completed(rows, columns)
    kind = next((name for name in _PROBLEMS if name in rows.column_names), None)
    content = rows.drop_columns([name for name in ("embedding",) if name in rows.column_names])
    for number in range(rows.num_rows):
        row = content.slice(number, 1).to_pylist()[0]
        problem = _row_problem(row, kind)
        if problem is not None:
            name = row["uri"] if row["member"] is None else f"{row['uri']} #{row['member']}"
            problems.append((problem[0], f"{name}: {problem[1]}"))
    return _Found(
        keys(rows, INPUT_KEY),
        keys(rows, VERSION_KEY),
        run_ids(rows),
        ~rows["error"].is_null().to_numpy(),
        set(zip(rows["model"].to_pylist(), rows["settings"].to_pylist(), strict=True)),
        problems,
        is_foreign,
    )


def _row_problem(row: dict[str, Any], kind: str | None) -> tuple[str, str] | None:
    error = row["error"]
    if error is not None and error["code"] not in ERROR_CODES:
        return "bad_error", f"code {error['code']!r}"
    if kind is None:
        return None
    if (row[kind] is None) != (error is not None):
        return "bad_error", f"error is {error}, {kind} is {'there' if row[kind] is not None else 'not there'}"
    if error is not None:
        return None
    problem = _PROBLEMS[kind](row)
    return None if problem is None else (f"bad_{kind}", problem)


def _compare(found: Audit, seen: list[_Found], runs: list[dict[str, Any]], sink: str) -> None:
    """Compare the rows with each other, and with the manifests of finished runs, newest run first."""
    folder = storage.join(sink, "runs")
    inputs = np.concatenate([item.input for item in seen]) if seen else np.empty((0, 2), np.uint64)
    versions = np.concatenate([item.version for item in seen]) if seen else np.empty((0, 2), np.uint64)
    run = np.concatenate([item.run for item in seen]) if seen else np.empty(0, str)
    failed = np.concatenate([item.failed for item in seen]) if seen else np.empty(0, bool)
    order = np.lexsort((run, inputs[:, 1], inputs[:, 0]))
    inputs, versions, run, failed = inputs[order], versions[order], run[order], failed[order]
    same_input = (inputs[1:] == inputs[:-1]).all(1)
    twice = same_input & (run[1:] == run[:-1])
    if twice.any():
        found.add("doubled", [f"run {name}" for name in np.unique(run[1:][twice])], int(twice.sum()))
    newest = np.append(~same_input, True) if len(inputs) else np.empty(0, bool)
    found.rows, found.inputs = len(inputs), int(newest.sum())
    found.failed = int(failed[newest].sum())
    found.done = found.inputs - found.failed
    found.runs = len(runs)
    current = {"inputs": inputs[newest], "versions": versions[newest], "run": run[newest]}
    rows_of = np.diff(np.append(np.flatnonzero(np.append(True, ~same_input)), len(inputs))) if len(inputs) else []
    several = KeySet([current["inputs"][np.asarray(rows_of) > 1]])
    checked: list[np.ndarray] = []
    left_out = sorted(removals(sink), reverse=True, key=lambda item: item[0])
    for item in sorted(runs, key=lambda item: item["name"], reverse=True):
        while left_out and left_out[0][0] > item["name"]:  # by hand, after this run
            checked.append(left_out.pop(0)[1])
        listed, tags, names = _manifest(storage.join(folder, item["name"], "manifest"))
        mine = ~KeySet(checked).contains(listed)
        listed, tags, names = listed[mine], tags[mine], names[mine]
        checked.append(listed)
        where = _positions(current["inputs"], listed)
        lost = where < 0
        found.add("lost", names[lost].tolist())
        where, listed, tags, names = where[~lost], listed[~lost], tags[~lost], names[~lost]
        is_later = current["run"][where] > item["name"]
        stale = ~is_later & (current["versions"][where] != tags).any(1)
        found.add("stale", names[stale].tolist())
        if item["removes"]:
            left = several.contains(listed) & ~is_later
            found.add("superseded", names[left].tolist())


def _positions(sorted_keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The index of each wanted key in an array of distinct sorted keys; -1 if it is not in the array."""
    both = np.concatenate([sorted_keys, wanted])
    _, inverse = np.unique(both, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    place = np.full(len(both), -1)
    place[inverse[: len(sorted_keys)]] = np.arange(len(sorted_keys))
    return place[inverse[len(sorted_keys) :]]


def _manifest(folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input keys, version keys and names of the inputs that a run has listed."""
    inputs, versions, names = [np.empty((0, 2), np.uint64)], [np.empty((0, 2), np.uint64)], [np.empty(0, object)]
    for shard in storage.names(folder):
        where = storage.join(folder, shard)
        with own_file(where):
            rows = read_parquet(storage.read(where), VERSION_KEY)
        inputs.append(keys(rows, INPUT_KEY))
        versions.append(keys(rows, VERSION_KEY))
        pairs = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), strict=True)
        named = np.empty(rows.num_rows, object)
        named[:] = [uri if member is None else f"{uri} #{member}" for uri, member in pairs]
        names.append(named)
    return np.concatenate(inputs), np.concatenate(versions), np.concatenate(names)


def _runs(sink: str) -> list[dict[str, Any]]:
    folder = storage.join(sink, "runs")
    runs = []
    for name in storage.names(folder):
        config = _json(storage.join(folder, name, "config.json"))
        summary = _json(storage.join(folder, name, "summary.json"))
        removes = bool(config) and config["run"]["superseded"] == "remove"
        runs.append(
            {
                "name": name,
                "config": config,
                "done": bool(summary) and summary["exit_code"] == 0,
                "removes": removes,
                "restored": (summary or {}).get("restored"),
            }
        )
    kept_before = None  # the runs from this one on have been undone by a restore, and with them earlier restores
    for run in reversed(runs):
        if kept_before is not None and run["name"] >= kept_before:
            run["done"] = False
        elif run["restored"]:
            kept_before = run["restored"]
    return runs


def _json(uri: str) -> dict[str, Any] | None:
    try:
        return json.loads(storage.read(uri))
    except (OSError, ValueError):
        return None
