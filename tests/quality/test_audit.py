"""The audit: silent about a sound table, and finding each thing that can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.images.outputs import encode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.quality.audit import PROBLEMS, audit
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.keys import KeySet
from pipeline.table.delta import Table
from pipeline.table.manifest import Manifest
from pipeline.table.parts import Part
from pipeline.table.readers import parts_of
from pipeline.table.schema import TableSchema
from pipeline.text.outputs import paragraphs_problem

KIND = InputKind(suffixes=(".png",))
TASK = ImageSegmentation(classes=("a", "b"), palette=((0, 0, 0), (255, 255, 255)), height_px=8, width_px=8)
SCHEMA = TableSchema.of(
    TASK.schema, result=TASK.result, huggingface_features=TASK.huggingface_features, stored_as_is=TASK.stored_as_is
)
MODEL = "a" * 32


def row(listed: dict[str, Any], run: str, **changes: Any) -> dict[str, Any]:
    mask = np.zeros((3, 4), np.uint8)
    mask[0] = 1
    found = {name: listed[name] for name in ("uri", "member", "etag", "size")}
    found |= {"height": 3, "width": 4, "mask": {"bytes": encode_mask(mask, TASK.palette), "path": None}}
    found |= {"class_pixels": [8, 4], "confidence": 0.5, "uncertainty": 0.1}
    return found | {"model": MODEL, "settings": "s", "run_id": run, "error": None} | changes


def failed(code: str = "empty") -> dict[str, Any]:
    nulls = dict.fromkeys(("height", "width", "mask", "class_pixels", "confidence", "uncertainty"))
    return nulls | {"error": {"stage": "fetch", "code": code, "message": "m"}}


def add(sink: Path, rows: list[dict[str, Any]]) -> Part:
    table = Table(str(sink), SCHEMA)
    table.create()
    part = table.write_part(pa.Table.from_pylist(rows, schema=SCHEMA.columns), rows[0]["run_id"], rows[0]["model"])
    table.commit([part], run_id=rows[0]["run_id"])
    return part


def finish(sink: Path, run: str, folder: Path, *, exit_code: int = 0, superseded: str = "remove") -> None:
    manifest = Manifest(str(sink / "runs" / run / "manifest"))
    manifest.write(entries([str(folder)], KIND), KeySet(), None)
    config = {"digest": MODEL, "settings": "s", "run": {"superseded": superseded}}
    (sink / "runs" / run / "config.json").write_text(json.dumps(config))
    (sink / "runs" / run / "summary.json").write_text(json.dumps({"exit_code": exit_code}))


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    """A sound table of one finished run: four inputs, one of them failed."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(bytes(number))
    inputs = pa.concat_tables(list(entries([str(folder)], KIND))).to_pylist()
    rows = [row(item, "run-1") for item in inputs]
    add(tmp_path / "sink", rows[:3])
    add(tmp_path / "sink", [rows[3] | failed()])
    finish(tmp_path / "sink", "run-1", folder)
    return tmp_path / "sink"


def listed(sink: Path) -> list[dict[str, Any]]:
    return pa.concat_tables(list(entries([str(sink.parent / "images")], KIND))).to_pylist()


def test_a_sound_table(sink: Path) -> None:
    counts = {"rows": 4, "inputs": 4, "done": 3, "failed": 1, "runs": 1}
    assert audit(str(sink)).summary() == counts | {"other_tools": [], "foreign_files": 0, "problems": {}}


def test_what_an_unfinished_run_has_done_is_sound(sink: Path) -> None:
    (sink.parent / "images" / "0.png").write_bytes(b"changed")
    add(sink, [row(listed(sink)[0], "run-2")])
    finish(sink, "run-2", sink.parent / "images", exit_code=143)
    found = audit(str(sink)).summary()
    assert (found["rows"], found["inputs"], found["problems"]) == (5, 4, {})


def test_a_finished_run_must_have_what_it_listed(sink: Path) -> None:
    (sink.parent / "images" / "0.png").write_bytes(b"changed")
    (sink.parent / "images" / "new.png").write_bytes(b"new")
    finish(sink, "run-2", sink.parent / "images")
    problems = audit(str(sink)).summary()["problems"]
    assert {name: item["count"] for name, item in problems.items()} == {"lost": 1, "stale": 1}
    assert problems["lost"]["examples"] == [str(sink.parent / "images" / "new.png")]


@pytest.mark.parametrize(("superseded", "expected"), [("remove", {"superseded": 1}), ("keep", {})])
def test_older_rows_must_leave_unless_they_are_kept(sink: Path, superseded: str, expected: dict[str, int]) -> None:
    add(sink, [row(listed(sink)[1], "run-2")])
    finish(sink, "run-2", sink.parent / "images", superseded=superseded)
    problems = audit(str(sink)).summary()["problems"]
    assert {name: item["count"] for name, item in problems.items()} == expected


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "missing_file": lambda sink: (sink / "table" / parts_of(str(sink))[0].path).unlink(),
    "doubled": lambda sink: add(sink, [row(listed(sink)[0], "run-1")]),
    "unknown_model": lambda sink: add(sink, [row(listed(sink)[0], "run-2", model="b" * 32)]),
    "bad_mask": lambda sink: add(sink, [row(listed(sink)[0], "run-2", height=4)]),
    "bad_error": lambda sink: add(sink, [row(listed(sink)[0], "run-2") | failed("no such code")]),
}


@pytest.mark.parametrize("problem", sorted(BREAKAGES))
def test_what_is_wrong_is_named(sink: Path, problem: str) -> None:
    BREAKAGES[problem](sink)
    found = audit(str(sink)).summary()["problems"]
    assert problem in found
    assert found[problem]["meaning"] == PROBLEMS[problem]
    assert found[problem]["examples"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": {"bytes": b"no PNG", "path": None}},
        {"class_pixels": [4, 8]},
        {"width": 3},
        {"mask": None},
        {"error": {"stage": "fetch", "code": "empty", "message": "m"}},
    ],
)
def test_rows_that_contradict_themselves(sink: Path, changes: dict[str, Any]) -> None:
    add(sink, [row(listed(sink)[0], "run-2", **changes)])
    assert set(audit(str(sink)).summary()["problems"]) <= {"bad_mask", "bad_error"}
    assert audit(str(sink)).summary()["problems"]


def test_a_file_that_is_not_the_one_of_the_log(sink: Path) -> None:
    part = parts_of(str(sink))[0]
    path = sink / "table" / part.path
    rows = pq.ParquetFile(path).read()
    pq.write_table(pa.concat_tables([rows, rows]), path)
    assert {"wrong_count", "doubled"} <= set(audit(str(sink)).summary()["problems"])


def test_paragraphs_must_tile() -> None:
    good = {"paragraphs": [{"start": 0, "end": 4, "score": 1.0}, {"start": 4, "end": 9, "score": 0.5}]}
    good |= {"num_paragraphs": 2, "num_chars": 9}
    assert paragraphs_problem(good) is None
    assert paragraphs_problem(good | {"pages": [1, 1], "times": None, "text": None}) is None
    gap = [{"start": 0, "end": 3, "score": 1.0}, {"start": 4, "end": 9, "score": 0.5}]
    for change in (
        {"num_chars": 10},
        {"num_paragraphs": 3},
        {"paragraphs": gap},
        {"paragraphs": good["paragraphs"][:1]},
        {"pages": [1]},
        {"times": [{"first_s": 0.0, "last_s": 1.0}] * 3},
        {"text": "123456789", "text_sha256": "0"},
    ):
        assert paragraphs_problem(good | change) is not None
