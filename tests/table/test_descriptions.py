"""What part files and a table say of their values: readers without the package know which class an id is."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipeline.errors import RequestError
from pipeline.images.outputs import encode_mask
from pipeline.sinks import open_sink
from pipeline.table.accepting import accept
from pipeline.table.compaction import compact
from pipeline.table.delta import Table
from pipeline.table.mending import mend
from pipeline.table.readers import open_delta, parts_of
from pipeline.table.schema import TableSchema
from testing.golden import GOLDEN
from testing.runs import TASK
from tests.table.test_delta import A, B, rows, supersede

CLASSES: dict[str, tuple[str, ...]] = {A: ("sky", "straße"), B: ("land", "sea")}


def schema_of(model: str) -> TableSchema:
    """The schema of a run with a model of two classes."""
    colors = [[0, 0, 255], [0, 255, 0]]
    return TableSchema.of(
        TASK.schema,
        result="mask",
        huggingface_features=TASK.huggingface_features,
        stored_as_is=TASK.stored_as_is,
        description={"kind": TASK.kind, "model": model, "classes": list(CLASSES[model]), "palette": colors},
    )


def begun(sink: Path, lease: int, run: str, model: str) -> Table:
    table = Table(str(sink), schema_of(model))
    table.create()
    table.fence(lease, run)
    return table


def add(table: Table, uris: list[str], run: str, model: str) -> None:
    table.commit([table.write_part(rows(uris, run, model=model), run, model)], run_id=run)


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    """A table of two files of model A, and one of model B, by a run each."""
    first = begun(tmp_path, 1, "1", A)
    add(first, ["a", "b"], "1", A)
    add(first, ["c", "d"], "1", A)
    add(begun(tmp_path, 2, "2", B), ["e"], "2", B)
    return tmp_path


def by_model(sink: Path) -> dict[str, set[tuple[str, ...] | None]]:
    """The classes that the files of each model name, as a plain reader of Parquet finds them."""
    found: dict[str, set[tuple[str, ...] | None]] = {}
    for part in parts_of(str(sink)):
        said = (pq.read_schema(part.uri(str(sink / "table"))).metadata or {}).get(b"parquetry")
        names = None if said is None else tuple(json.loads(said)["classes"])
        found.setdefault(part.model or "", set()).add(names)
    return found


def in_table(sink: Path) -> dict[str, Any]:
    properties = DeltaTable(str(sink / "table")).metadata().configuration
    return {name: json.loads(value) for name, value in properties.items() if name.startswith("parquetry.") and value}


EACH_ITS_OWN = {model: {names} for model, names in CLASSES.items()}


def test_each_file_names_the_classes_of_its_model(sink: Path) -> None:
    assert by_model(sink) == EACH_ITS_OWN
    assert {name: tuple(said["classes"]) for name, said in in_table(sink).items()} == {
        f"parquetry.{model}": names for model, names in CLASSES.items()
    }
    version = open_delta(str(sink)).version()
    begun(sink, 3, "3", B)
    assert open_delta(str(sink)).version() == version + 1, "the fence alone: the table knows the model"


def test_sql_reads_them(sink: Path) -> None:
    file = next(uri for uri in open_delta(str(sink)).file_uris() if A in uri)
    query = f"select decode(value) from parquet_kv_metadata('{file}') where decode(key) = 'parquetry'"
    ((said,),) = duckdb.sql(query).fetchall()
    assert json.loads(said)["classes"] == ["sky", "straße"]


def test_compaction_keeps_them(sink: Path) -> None:
    table = begun(sink, 3, "3", B)
    assert compact(table, "3").before == 2
    assert by_model(sink) == EACH_ITS_OWN


def test_rewriting_keeps_those_of_the_other_model(sink: Path) -> None:
    table = begun(sink, 3, "3", B)
    assert supersede(table, ["a"], model=B) == 1
    assert by_model(sink) == EACH_ITS_OWN


def test_the_table_tells_what_files_of_other_tools_do_not(sink: Path) -> None:
    DeltaTable(str(sink / "table")).optimize.compact()
    assert None in by_model(sink)[A]
    assert mend(begun(sink, 3, "3", B), "3")["rewritten"] == 1
    assert by_model(sink) == EACH_ITS_OWN


def test_files_tell_what_the_table_does_not(sink: Path) -> None:
    """The log was made anew by hand, from the files."""
    files = parts_of(str(sink))
    shutil.rmtree(sink / "table" / "_delta_log")
    table = Table(str(sink), TableSchema.of(TASK.schema, result="mask"))
    table.create()
    table.fence(3, "3")
    table.commit(files, run_id="3")
    assert in_table(sink) == {}
    assert compact(table, "3").before == 2
    assert by_model(sink) == EACH_ITS_OWN


def test_a_pilot_brings_its_own(tmp_path: Path) -> None:
    add(begun(tmp_path / "sink", 1, "1", A), ["a", "b"], "1", A)
    add(begun(tmp_path / "pilot", 1, "2", B), ["a"], "2", B)
    table = Table(str(tmp_path / "sink"), TableSchema.of(TASK.schema, result="mask"))
    table.fence(2, "3")
    assert accept(table, str(tmp_path / "pilot"), "3").accepted == 1
    assert by_model(tmp_path / "sink") == EACH_ITS_OWN
    assert set(in_table(tmp_path / "sink")) == {f"parquetry.{A}", f"parquetry.{B}"}


def test_a_sink_without_its_runs(sink: Path) -> None:
    """As one that was copied without them: nothing but the table says what the ids mean."""
    assert not (sink / "runs").exists()
    assert open_sink(str(sink)).classes == ("land", "sea"), "those of the newest file"
    assert open_sink(str(sink)).palette == ((0, 0, 255), (0, 255, 0))


def test_tables_of_earlier_versions_go_on(tmp_path: Path) -> None:
    """Their files say nothing, and are written anew all the same; `SINK/runs` says which classes they have."""
    shutil.copytree(GOLDEN / "sink-whole", tmp_path / "sink")
    assert open_sink(str(tmp_path / "sink")).classes[0] == "sky"
    (old,) = by_model(tmp_path / "sink")
    assert by_model(tmp_path / "sink") == {old: {None}}
    table = begun(tmp_path / "sink", 10, "9", A)
    uris = open_delta(str(tmp_path / "sink")).to_pyarrow_table()["uri"].to_pylist()
    assert supersede(table, uris[:1]) == 1
    add(table, uris[:1], "9", A)
    assert by_model(tmp_path / "sink") == {old: {None}, A: {CLASSES[A]}}
    assert open_delta(str(tmp_path / "sink")).to_pyarrow_table().num_rows == len(uris)
    shutil.rmtree(tmp_path / "sink" / "runs")
    shutil.rmtree(tmp_path / "sink" / "table")
    shutil.copytree(GOLDEN / "sink-whole" / "table", tmp_path / "sink" / "table")
    with pytest.raises(RequestError, match="neither a run nor a file there says"):
        _ = open_sink(str(tmp_path / "sink")).classes


def test_ids_as_the_docs_read_them() -> None:
    ids = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    data = encode_mask(ids, TASK.palette)
    assert (np.array(Image.open(io.BytesIO(data))) == ids).all()
    colors = np.array(Image.open(io.BytesIO(data)).convert("RGB"))  # what readers give that apply the palette
    assert ((colors[..., None, :] == np.array(TASK.palette)).all(-1).argmax(-1) == ids).all()
