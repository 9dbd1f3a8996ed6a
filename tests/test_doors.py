"""Input never runs code: one module opens Parquet and Arrow files, and nothing unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.errors import InputError, RequestError
from pipeline.storage.columnar import read_arrow, read_parquet
from pipeline.table.log import columns_of
from pipeline.table.parts import Part, read_part

ROOT = Path(__file__).parent.parent
DOOR = ROOT / "pipeline" / "storage" / "columnar.py"

#: Modules that run code which is in their input, or ask for it.
FORBIDDEN_MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas", "pyarrow.dataset")
#: Attributes that open Parquet or Arrow files, or that unpickle, of whatever object they are.
FORBIDDEN_NAMES = (
    "ParquetFile",
    "ParquetDataset",
    "read_metadata",
    "read_parquet",
    "read_schema",
    "read_table",
    "read_feather",
    "open_file",
    "open_stream",
    "read_message",
    "read_record_batch",
    "to_pyarrow_dataset",
    "to_pyarrow_table",
    "to_pandas",
    "deserialize",
    "unsafe_load",
    "full_load",
)
#: Objects on which a name above is something else.
OTHERS = (("storage", "open_file"),)


def problems(tree: ast.Module) -> Iterator[str]:
    """What a module does that only the door may do, or nobody."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: node.module or "" for alias in node.names}
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if any(name == item or name.startswith(item + ".") for item in FORBIDDEN_MODULES):
                yield f"line {node.lineno}: imports {name}"
            if name.startswith("pyarrow.") and name.rpartition(".")[2] in FORBIDDEN_NAMES:
                yield f"line {node.lineno}: imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _wrong_call(node)
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_NAMES:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (owner, node.attr) not in OTHERS:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def _wrong_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called == "torch.load":
        yield f"line {node.lineno}: torch.load"
    if called in ("yaml.load", "yaml.load_all"):
        yield f"line {node.lineno}: {called}"
    if called in ("eval", "exec"):
        yield f"line {node.lineno}: {called}"
    for keyword in node.keywords:
        if keyword.arg == "allow_pickle" and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        ):
            yield f"line {node.lineno}: allow_pickle"


def test_only_the_door_opens_columnar_files_and_nobody_unpickles() -> None:
    files = [path for folder in ("pipeline", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in files
        if path != DOOR
        for problem in problems(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pyarrow.parquet as pq\npq.ParquetFile(file)",
        "import pyarrow.parquet as pq\npq.read_table(file)",
        "import pyarrow.parquet as anything\nanything.read_schema(file)",
        "from pyarrow.parquet import ParquetFile",
        "from pyarrow.ipc import open_file",
        "import pyarrow as pa\npa.ipc.open_file(source)",
        "import pyarrow as pa\npa.ipc.open_stream(source)",
        "import pyarrow.dataset",
        "from pyarrow import dataset",
        "import polars as pl\npl.read_parquet(name)",
        "delta.to_pyarrow_table()",
        "delta.to_pyarrow_dataset()",
        "import torch\ntorch.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import pickle",
        "from ray import cloudpickle\nimport cloudpickle",
        "import joblib",
        "eval(text)",
    ],
)
def test_the_rules_can_be_broken(source: str) -> None:
    assert list(problems(ast.parse(source)))


#: A folder with files whose column ``body`` claims, at some depth, to be of a type that runs code, and what a process
#: prints that reads them with this project, where such types are registered.
HOSTILE = """
import pickle, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import ray.data
from pipeline.rows import InputKind
from pipeline.source.entries import ENTRIES, entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.storage.columnar import ParquetReader, read_arrow

folder, mark = Path(sys.argv[1]), Path(sys.argv[2])

class Payload:
    def __reduce__(self):
        return Path.touch, (mark,)

class Loud(pa.ExtensionType):
    "Runs code as soon as a schema with its name is read."
    def __init__(self):
        super().__init__(pa.binary(), "tests.loud")
    def __arrow_ext_serialize__(self):
        return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        mark.touch()
        return cls()

pa.register_extension_type(Loud())

def marked(name, kind, type_name):
    return pa.field(name, kind, metadata={"ARROW:extension:name": type_name, "ARROW:extension:metadata": ""})

values = [pickle.dumps(Payload())]
PICKLED = "ray.data.arrow_pickled_object"
columns = {
    "body": (marked("body", pa.large_binary(), PICKLED), values),
    "loud": (marked("body", pa.binary(), "tests.loud"), values),
    "struct": (pa.field("body", pa.struct([marked("bytes", pa.large_binary(), PICKLED)])), [{"bytes": values[0]}]),
}
for name, (field, column) in columns.items():
    pq.write_table(pa.table([pa.array(column, field.type)], schema=pa.schema([field])), folder / f"{name}.parquet")
other = pa.schema([pa.field("body", pa.binary()), marked("also", pa.large_binary(), PICKLED)])
pq.write_table(pa.table([[b"sound"], values], schema=other), folder / "other.parquet")
# The name that the project gives to a schema that it hides, for a second schema.
evil = pq.read_metadata(folder / "loud.parquet").metadata[b"ARROW:schema"]
other = pa.schema([pa.field("body", pa.binary())], metadata={"ARROW:schem_": evil})
pq.write_table(pa.table([[b"sound"]], schema=other), folder / "two schemas.parquet")
schema = pa.schema([marked("uri", pa.large_binary(), PICKLED)])
pq.write_table(pa.table([values], schema=schema), folder / "manifest.parquet")
with pa.ipc.new_file(folder / "shard.arrow", schema) as writer:
    writer.write_table(pa.table([values], schema=schema))
mark.unlink(missing_ok=True)

if "careless" in sys.argv:
    print(pq.read_table(folder / "body.parquet").to_pylist())
    raise SystemExit
kind = InputKind(suffixes=(".parquet",), bytes_columns=("body",))
for source in [folder, folder / "manifest.parquet"]:
    try:
        for rows in entries([str(source)], kind):
            assert rows.schema.equals(ENTRIES, check_metadata=True)  # what goes to Ray has nothing of the file's schema
            data, errors = fetch(rows, kind, FetchConfig())
            for uri, item, error in zip(rows["uri"].to_pylist(), data, errors.to_pylist()):
                print(Path(uri).name, error["message"] if error else item.decode())
    except ValueError as reason:
        print(str(reason).rpartition(": ")[2])
try:
    read_arrow(pa.memory_map(str(folder / "shard.arrow")))
except Exception as reason:
    print(reason)
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HOSTILE, str(folder / "in"), str(folder / "EXECUTED"), *options]
    (folder / "in").mkdir()
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_no_file_runs_code_where_ray_data_has_registered_its_types(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    refused = "column 'body' has the extension type "
    assert done.stdout.splitlines() == [
        f"body.parquet {refused}'ray.data.arrow_pickled_object'",
        f"loud.parquet {refused}'tests.loud'",
        "manifest.parquet the Parquet file has none of the columns body",
        "other.parquet sound",
        f"struct.parquet {refused}'ray.data.arrow_pickled_object'",
        "two schemas.parquet sound",
        "column 'uri' has the extension type 'ray.data.arrow_pickled_object'",
        "the Arrow file has a column with an extension type",
    ]
    assert not (tmp_path / "EXECUTED").exists()


def test_a_table_of_others_with_an_extension_type_is_refused(tmp_path: Path) -> None:
    field = pa.field("uri", pa.string(), metadata={"ARROW:extension:name": "stranger"})
    rows = pa.table([["x"]], schema=pa.schema([field]))
    pq.write_table(rows, tmp_path / "part.parquet")
    with pytest.raises(RequestError, match="column 'uri' has the extension type 'stranger'"):
        read_part(str(tmp_path), Part(path="part.parquet", size=1, rows=1, model="m"))
    write_deltalake(tmp_path / "table", rows)
    with pytest.raises(RequestError, match="has a column with an Arrow extension type"):
        columns_of(DeltaTable(tmp_path / "table"))


def test_a_schema_of_our_own_comes_back_as_it_was_written() -> None:
    inner = pa.struct([pa.field("bytes", pa.large_binary()), pa.field("path", pa.string())])
    fields = [
        pa.field("mask", inner),
        pa.field("when", pa.timestamp("us", "UTC")),
        pa.field("name", pa.dictionary(pa.int32(), pa.string())),
    ]
    schema = pa.schema(fields, metadata={"huggingface": "{}"})
    pq.write_table(schema.empty_table(), out := pa.BufferOutputStream())
    assert read_parquet(out.getvalue()).schema.equals(schema, check_metadata=True)


def test_text_that_is_marked_as_json_is_text() -> None:
    rows = pa.table({"body": pa.array(["{}"], pa.json_())})
    pq.write_table(rows, out := pa.BufferOutputStream())
    assert read_parquet(out.getvalue())["body"].to_pylist() == ["{}"]


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1\0\0" * 9, b"ARROW1\0\0" + b"\xff" * 30 + b"ARROW1"])
def test_an_arrow_file_that_is_cut_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(InputError, match="no valid end"):
        read_arrow(pa.BufferReader(data))


def test_the_same_file_runs_code_with_pyarrow_alone(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    run(tmp_path, "careless")
    assert (tmp_path / "EXECUTED").exists()
