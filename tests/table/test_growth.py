"""A table that grows: a later version adds its columns to an old sink, an older one keeps those it does not know."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipeline.errors import RequestError
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.table.delta import Table
from pipeline.table.readers import open_delta
from pipeline.table.schema import TableSchema
from testing.golden import GOLDEN
from testing.runs import TASK

NEW = pa.schema([("sharpness", pa.float32()), ("tags", pa.list_(pa.string()))])


def schema_of(columns: pa.Schema) -> TableSchema:
    return TableSchema.of(
        columns, result="mask", huggingface_features=TASK.huggingface_features, stored_as_is=TASK.stored_as_is
    )


CURRENT, LATER = schema_of(TASK.schema), schema_of(pa.schema([*TASK.schema, *NEW]))


@pytest.fixture
def sink(tmp_path: Path) -> str:
    """A sink with a table that the first version wrote: 11 rows."""
    shutil.copytree(GOLDEN / "sink-whole", tmp_path / "sink")
    return str(tmp_path / "sink")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (4, 3), 1).save(buffer, "PNG", bits=8)
    return buffer.getvalue()


def row(**values: Any) -> dict[str, Any]:
    given = {"uri": "new.png", "etag": "1", "size": 1, "mask": {"bytes": png(), "path": None}, "height": 3, "width": 4}
    return given | {"model": "a" * 32, "settings": "s", "run_id": "9"} | values


def begun(sink: str, schema: TableSchema, lease: int = 10) -> Table:
    table = Table(sink, schema)
    table.create()
    table.fence(lease, "9")
    return table


def add(table: Table, **values: Any) -> None:
    given = row(**values)
    names = [field for field in table.schema.columns if field.name in given]
    rows = pa.Table.from_pylist([given], schema=pa.schema(names))
    table.commit([table.write_part(rows, "9", given["model"])], run_id="9")


def found(sink: str) -> list[dict[str, Any]]:
    return pa.table(open_delta(sink).to_pyarrow_table()).to_pylist()


def test_a_later_version_adds_its_columns_to_an_old_sink(sink: str) -> None:
    before = found(sink)
    table = Table(sink, LATER)
    assert table.new_columns == ["scale", "sharpness", "tags"], "scale is younger than the sink, too"
    assert found(sink) == before, "nothing is written before the run begins"
    version = open_delta(sink).version()
    table = begun(sink, LATER)
    delta = open_delta(sink)
    assert delta.version() == version + 2, "the fence, and one commit for all columns"
    assert pa.schema(delta.schema().to_arrow()).names[-2:] == ["sharpness", "tags"]
    add(table, sharpness=0.5, tags=["x"])
    rows = {item["uri"]: item for item in found(sink)}
    assert (rows.pop("new.png")["sharpness"], len(rows)) == (0.5, 11)
    assert {item["sharpness"] for item in rows.values()} == {None}
    old = {name: value for name, value in next(iter(rows.values())).items() if name not in table.new_columns}
    assert old in before
    connection = duckdb.connect()
    connection.register("rows", delta.to_pyarrow_dataset())
    assert connection.execute("select count(*), count(sharpness) from rows").fetchall() == [(11, 0)]
    assert begun(sink, LATER, lease=11).new_columns == [], "the next run finds them there"


def test_an_older_version_keeps_columns_that_it_does_not_know(sink: str) -> None:
    add(begun(sink, LATER), sharpness=0.5, tags=["x"])
    table = begun(sink, CURRENT, lease=11)
    assert table.new_columns == []
    add(table, uri="other.png", run_id="8")
    rows = {item["uri"]: item for item in found(sink)}
    assert rows["new.png"]["sharpness"] == 0.5
    assert rows["other.png"]["sharpness"] is rows["other.png"]["tags"] is None
    # A plain Parquet reader of the new file sees the columns, too, and the mask is a picture still.
    files = [uri for uri in open_delta(sink).file_uris() if "/8-" in uri or "/9-" in uri]
    for file in files:
        assert {"sharpness", "tags"} <= set(pq.read_schema(file).names)
        features = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
        assert features["mask"] == {"_type": "Image"}
        assert features["sharpness"] == {"dtype": "float32", "_type": "Value"}


def test_rows_of_a_later_version_survive_being_written_anew_by_an_older(sink: str) -> None:
    table = begun(sink, LATER)
    given = [row(uri="x.png", sharpness=0.5), row(uri="y.png", sharpness=0.25)]
    rows = pa.Table.from_pylist(given, schema=pa.schema([table.schema.columns.field(name) for name in given[0]]))
    table.commit([table.write_part(rows, "9", "a" * 32)], run_id="9")
    older = begun(sink, CURRENT, lease=11)
    listed = pa.Table.from_pylist([{"uri": "x.png", "member": None, "etag": "2"}])
    listed = listed.cast(pa.schema([("uri", pa.string()), ("member", pa.string()), ("etag", pa.string())]))
    inputs, versions = KeySet([keys(listed, INPUT_KEY)]), KeySet([keys(listed, VERSION_KEY)])
    removed = older.supersede(inputs, versions, model="b" * 32, settings="s", run_id="91", own_parts=True)
    assert removed == 1
    kept = {item["uri"]: item for item in found(sink)}
    assert "x.png" not in kept
    assert kept["y.png"]["sharpness"] == 0.25


@pytest.mark.parametrize(
    ("changed", "theirs", "ours"),
    [
        (pa.field("confidence", pa.string()), "float", "string"),
        (pa.field("height", pa.int64()), "int32", "int64"),
        (pa.field("class_pixels", pa.list_(pa.int32())), "list<element: int64>", "list<element: int32>"),
        (
            pa.field("mask", pa.struct([("bytes", pa.binary())])),
            "struct<bytes: binary, path: string>",
            "struct<bytes: binary>",
        ),
    ],
)
def test_a_changed_type_is_refused_with_both_types(sink: str, changed: pa.Field, theirs: str, ours: str) -> None:
    columns = [changed if field.name == changed.name else field for field in TASK.schema]
    with pytest.raises(RequestError) as caught:
        Table(sink, schema_of(pa.schema(columns)))
    message = str(caught.value)
    assert f"column {changed.name!r} must be {ours}, the table has {theirs}" in message
    assert sink in message


def test_a_table_of_another_kind_is_refused_by_what_it_lacks(sink: str) -> None:
    words = TableSchema.of(pa.schema([("words", pa.int64())]), result="words")
    with pytest.raises(RequestError, match="holds a table of another kind: it has no column 'words', but uri, member"):
        Table(sink, words)


def test_types_that_readers_write_in_another_width_are_the_same(tmp_path: Path) -> None:
    """Polars and others store strings and lists with 64-bit offsets; that is no other type."""
    wide = pa.schema(
        [
            field.with_type(pa.large_string()) if field.type == pa.string() else field
            for field in CURRENT.columns.remove_metadata()
        ]
    )
    within = CURRENT.within(wide, str(tmp_path))
    assert within.names == CURRENT.names
    assert within.columns.field("uri").type == pa.string()


def test_a_sink_that_is_new_has_all_columns_at_once(tmp_path: Path) -> None:
    table = begun(str(tmp_path / "sink"), LATER, lease=1)
    assert table.new_columns == []
    add(table, sharpness=1.0, tags=[])
    assert isinstance(open_delta(str(tmp_path / "sink")), DeltaTable)
    assert found(str(tmp_path / "sink"))[0]["sharpness"] == 1.0
