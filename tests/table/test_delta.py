"""The table: one current row for one input, whatever runs come and go."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.table.delta import Table
from pipeline.table.readers import current_rows, open_delta
from pipeline.table.schema import TableSchema

TASK = pa.schema([("height", pa.int32()), ("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
SCHEMA = TableSchema.of(
    TASK, result="mask", huggingface_features={"mask": {"_type": "Image"}}, stored_as_is=("mask.bytes",)
)
A, B = "a" * 32, "b" * 32


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (4, 3), 1).save(buffer, "PNG", bits=8)
    return buffer.getvalue()


def rows(uris: list[str], run: str, *, model: str = A, etag: str = "1", error: str | None = None) -> pa.Table:
    failed = None if error is None else {"stage": "fetch", "code": error, "message": "m"}
    values = [
        {
            "uri": uri,
            "etag": etag,
            "size": 1,
            "height": None if error else 3,
            "mask": None if error else {"bytes": png(), "path": None},
            "model": model,
            "settings": "s",
            "run_id": run,
            "error": failed,
        }
        for uri in uris
    ]
    return pa.Table.from_pylist(values, schema=SCHEMA.columns)


def add(table: Table, content: pa.Table) -> None:
    run, model = content["run_id"][0].as_py(), content["model"][0].as_py()
    table.commit([table.write_part(content, run, model)], run_id=run)


def opened(sink: Path) -> Table:
    table = Table(str(sink), SCHEMA)
    table.create()
    return table


def held(sink: Path) -> list[tuple[str, str, str, str]]:
    found = open_delta(str(sink)).to_pyarrow_table()
    return sorted(zip(*(found[name].to_pylist() for name in ("uri", "model", "etag", "run_id")), strict=True))


def supersede(table: Table, uris: list[str], *, model: str = A, etag: str = "1", own_parts: bool = True) -> int:
    listed = rows(uris, "x", etag=etag)
    inputs, versions = KeySet([keys(listed, INPUT_KEY)]), KeySet([keys(listed, VERSION_KEY)])
    return table.supersede(inputs, versions, model=model, settings="s", run_id="9", own_parts=own_parts)


def is_outdated(table: Table, uris: list[str], pending: int, *, model: str = A) -> bool:
    return table.contents(model, "s").outdated(KeySet([keys(rows(uris, "x"), INPUT_KEY)]), pending)


def test_uncommitted_parts_are_not_seen(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x"], "1"))
    table.write_part(rows(["orphan"], "1"), "1", A)
    assert [row[0] for row in held(tmp_path)] == ["x"]
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert table.last_run_id() == "1"


def test_done_knows_model_settings_tag_and_errors(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y"], "1"))
    add(table, rows(["z"], "1", error="empty"))
    add(table, rows(["w"], "1", model=B))
    wanted = keys(rows(["x", "y", "z", "w"], "2"), VERSION_KEY)
    held = table.contents(A, "s")
    assert held.sound.contains(wanted).tolist() == [True, True, False, False]
    assert held.failed.contains(wanted).tolist() == [False, False, True, False]
    assert held.done(retry_errors=False).contains(wanted).tolist() == [True, True, True, False]
    assert held.done(retry_errors=True).contains(wanted).tolist() == [True, True, False, False]
    other = table.contents(A, "other")
    assert not other.done(retry_errors=False).contains(wanted).any()
    assert other.others[A, "s"].contains(wanted).tolist() == [True, True, True, False]
    changed = keys(rows(["x"], "2", etag="2"), VERSION_KEY)
    assert not held.done(retry_errors=False).contains(changed).any()
    every = table.contents(A, "s", every_model=True)
    assert every.others[B, "s"].contains(wanted).tolist() == [False, False, False, True]
    assert every.inputs.contains(keys(rows(["x", "y", "z", "w", "v"], "2"), INPUT_KEY)).tolist() == [True] * 4 + [False]


def test_outdated_rows_are_foreseen(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y"], "1"))
    add(table, rows(["z"], "1", error="timeout"))
    assert not is_outdated(table, ["x", "y", "z"], 0), "a run that has nothing to do"
    assert not is_outdated(table, ["x"], 0), "what is not listed stays"
    assert not is_outdated(table, ["x", "new"], 1), "new inputs only"
    assert is_outdated(table, ["x", "y", "z"], 1), "a changed object, or a retried error"
    assert not is_outdated(table, ["x"], 1, model=B), "another model's parts are not its own"
    add(table, rows(["z"], "2"))
    assert is_outdated(table, ["x", "y", "z"], 0), "a retry that was killed before it superseded"


def test_a_table_that_holds_all_is_read_once(tmp_path: Path, part_reads: list[str]) -> None:
    table = opened(tmp_path)
    for number, name in enumerate("uvwxyz"):
        add(table, rows([name], f"{number}"))
    listed = list("uvwxyz")
    assert supersede(table, listed, own_parts=is_outdated(table, listed, 0)) == 0
    assert sorted(part_reads) == sorted(open_delta(str(tmp_path)).file_uris())
    del part_reads[:]
    add(table, rows(["v"], "7", model=B))
    assert supersede(table, listed, own_parts=is_outdated(table, listed, 0)) == 1
    others = [uri for uri in part_reads if f"model={B}" in uri]
    assert (len(part_reads), len(others)) == (7, 1), "the parts of others are read too, once"


def test_superseding_takes_listed_inputs_only(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y", "z"], "1", model=B))
    add(table, rows(["x", "y"], "2"))
    assert supersede(table, ["x", "y"]) == 2
    assert held(tmp_path) == [("x", A, "1", "2"), ("y", A, "1", "2"), ("z", B, "1", "1")]
    assert supersede(table, ["x", "y"]) == 0


def test_the_newest_of_two_rows_of_one_version_stays(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y"], "1", error="timeout"))
    add(table, rows(["x"], "2"))
    assert supersede(table, ["x", "y"]) == 1
    assert held(tmp_path) == [("x", A, "1", "2"), ("y", A, "1", "1")]


def test_rewritten_masks_are_pictures_still(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y"], "1", model=B))
    add(table, rows(["x"], "2"))
    supersede(table, ["x"])
    files = open_delta(str(tmp_path)).file_uris()
    for file in files:
        features = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
        assert features["mask"] == {"_type": "Image"}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["mask"], datasets.Image)
    assert loaded[0]["mask"].size == (4, 3)
    assert set(loaded["model"]) == {A, B}


def test_other_tools_open_the_table(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["x", "y"], "1"))
    add(table, rows(["z"], "1", model=B, error="empty"))
    delta = open_delta(str(tmp_path))
    connection = duckdb.connect()
    connection.register("rows", delta.to_pyarrow_dataset())
    found = connection.execute("select uri, error.code from rows where model = repeat('b', 32)").fetchall()
    assert found == [("z", "empty")]
    frame = polars.scan_delta(str(tmp_path / "table")).filter(polars.col("error").is_null()).collect()
    assert sorted(frame["uri"]) == ["x", "y"]
    assert frame["mask"].struct.field("bytes")[0] == png()


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(
        RequestError,
        match="holds a table of another kind: it has no column 'words', but uri, member, etag, size, height, mask",
    ):
        Table(str(tmp_path), TableSchema.of(pa.schema([("words", pa.int64())]), result="words"))
    with pytest.raises(RequestError, match="no table at"):
        open_delta(str(tmp_path / "nothing"))


def test_current_rows_are_the_newest(tmp_path: Path) -> None:
    every = pa.concat_tables([rows(["x", "y"], "1", model=B), rows(["x"], "2")])
    found = current_rows(every)
    assert sorted(zip(found["uri"].to_pylist(), found["run_id"].to_pylist(), strict=True)) == [("x", "2"), ("y", "1")]


run = st.tuples(
    st.sets(st.sampled_from("uvwxyz"), min_size=1),  # listed
    st.sampled_from([A, B]),
    st.sampled_from(["1", "2"]),  # the tag that the listing shows
    st.booleans(),  # crashes before it supersedes
    st.booleans(),  # retries errors
    st.booleans(),  # its new rows are errors
)


@settings(max_examples=25)
@given(history=st.lists(run, min_size=1, max_size=6))
def test_any_history_leaves_one_current_row(tmp_path_factory: pytest.TempPathFactory, history: list) -> None:
    """A run's listed inputs have exactly one row after it, of its model and tag; no other input loses a row."""
    sink = tmp_path_factory.mktemp("sink")
    for number, (listed, model, etag, crashes, retry, fails) in enumerate(history):
        table = opened(sink)
        before = held(sink)
        inputs = rows(sorted(listed), "x", etag=etag)
        found = table.contents(model, "s")
        done = found.done(retry).contains(keys(inputs, VERSION_KEY))
        todo = [uri for uri, is_done in zip(sorted(listed), done, strict=True) if not is_done]
        outdated = found.outdated(KeySet([keys(inputs, INPUT_KEY)]), len(todo))
        if todo:
            add(table, rows(todo, f"{number:02d}", model=model, etag=etag, error="empty" if fails else None))
        if crashes:
            continue
        supersede(table, sorted(listed), model=model, etag=etag, own_parts=outdated)
        assert supersede(table, sorted(listed), model=model, etag=etag) == 0
        after = held(sink)
        mine = [row for row in after if row[0] in listed]
        assert sorted((row[0], row[1], row[2]) for row in mine) == [(uri, model, etag) for uri in sorted(listed)]
        assert [row for row in after if row[0] not in listed] == [row for row in before if row[0] not in listed]
