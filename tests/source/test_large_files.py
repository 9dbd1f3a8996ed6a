"""Containers above 2 GiB: what is read is what is needed, and no offset of 32 bits runs over."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.rows import InputKind
from pipeline.source import records
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.storage import Read
from testing.processes import ROOT

MIB = 1 << 20
KIND = InputKind(suffixes=(".png", ".tar", ".parquet"))
TEXTS = InputKind(suffixes=(".parquet",), record=("text",))
LIMITS = Read(max_bytes=64 * MIB, deadline_s=60)
TYPES: dict[str, pa.DataType] = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "string": pa.string(),
}
#: Memory in MiB that listing the rows and reading 16 of 1 MiB at a time may need.
MOST_MIB = 150


def write_group(path: Path, type_: pa.DataType, rows: int, size: int, compression: str) -> None:
    """A Parquet file with one row group of equal rows. All of them share one buffer in memory."""
    value: Any = "a" * size if pa.types.is_string(type_) else bytes(size)
    value = {"bytes": value, "path": None} if pa.types.is_struct(type_) else value
    column = pa.chunked_array([pa.array([value], type_)] * rows)
    table = pa.table({"text" if pa.types.is_string(type_) else "bytes": column})
    pq.write_table(table, path, row_group_size=rows, compression=compression, use_dictionary=False)


class Counting(io.FileIO):
    """A file that remembers the largest piece that was read of it."""

    largest = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self.largest = max(self.largest, len(data))
        return data


@pytest.mark.parametrize("name", TYPES)
def test_a_row_group_is_read_in_pieces(name: str, tmp_path: Path) -> None:
    write_group(tmp_path / "rows.parquet", TYPES[name], 96, MIB, "none")
    kind = TEXTS if name == "string" else KIND
    with Counting(tmp_path / "rows.parquet") as file:
        found = dict(records.read_rows(file, kind, {0: 0, 95: 1}, LIMITS))
        assert sorted(len(value) for value in found.values() if isinstance(value, bytes))[0] >= MIB
        assert len(found) == 2
        assert file.largest < 10 * MIB, "a piece of a column, not all of its 96 MiB"


def test_batches_have_fewer_rows_where_rows_are_large() -> None:
    assert records._batch_rows(10 * MIB, 10) == 32
    assert records._batch_rows(100 << 30, 100 << 10) == 4
    assert records._batch_rows(100 << 30, 100) == 1
    assert records._batch_rows(100 << 30, 1 << 40) == 32


def test_a_value_above_the_limit_fails_alone(tmp_path: Path) -> None:
    table = pa.table({"bytes": pa.array([bytes(10), bytes(1000), None, bytes(10)], pa.binary())})
    pq.write_table(table, tmp_path / "rows.parquet")
    with open(tmp_path / "rows.parquet", "rb") as file:
        found = dict(records.read_rows(file, KIND, {row: row for row in range(4)}, Read(max_bytes=100, deadline_s=9)))
    codes = [value.code if isinstance(value, InputError) else len(value) for _, value in sorted(found.items())]
    assert codes == [10, "too_large", "empty", 10]


def test_a_tar_archive_with_a_file_above_4_gib(tmp_path: Path) -> None:
    """A file with holes: it takes no space, and a reader that does not skip its data takes long."""
    size = (4 << 30) + 12_345
    with open(tmp_path / "large.tar", "wb") as out:
        for name, length, data in (("huge.png", size, b""), ("after.png", 5, b"after")):
            item = tarfile.TarInfo(name)
            item.size = length
            out.write(item.tobuf(tarfile.GNU_FORMAT))
            end = out.tell() + length
            out.write(data)
            out.truncate(end + -length % 512)
            out.seek(0, io.SEEK_END)
        out.truncate(out.tell() + 1024)
    listed = pa.concat_tables(list(entries([str(tmp_path / "large.tar")], KIND)))
    rows = listed.select(["member", "size", "start", "error"]).to_pylist()
    assert [(row["member"], row["size"], row["error"]) for row in rows] == [
        ("huge.png", size, None),
        ("after.png", 5, None),
    ]
    assert rows[1]["start"] > 4 << 30
    data, errors = fetch(listed, KIND, FetchConfig(threads=1))
    assert data == [None, b"after"]
    assert [error and error["code"] for error in errors.to_pylist()] == ["too_large", None]


_READING = """
import json, pathlib, sys
import pyarrow.parquet
from pipeline.source import fetch, entries
from pipeline.rows import InputKind
from testing.hostile.corpus import peak_mib
path, record = sys.argv[1:]
kind = InputKind(suffixes=(".parquet",), record=("text",) if record == "string" else ())
# The imports have a peak far above what the process holds now, which would hide what reading needs.
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak_mib()
pages = list(entries.entries([path], kind))
sizes = []
for page in pages:
    for start in range(0, page.num_rows, 16):
        data, errors = fetch.fetch(page.slice(start, 16), kind, fetch.FetchConfig()) if start % 512 == 0 else ([], None)
        sizes += [len(item) for item in data]
        assert errors is None or errors.null_count == len(errors), errors
print(json.dumps([sum(page.num_rows for page in pages), sizes, peak_mib() - before]))
"""


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of a process")
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("name", TYPES)
def test_a_row_group_above_2_gib_needs_little_memory(name: str, compression: str, tmp_path: Path) -> None:
    rows = 2304  # of 1 MiB: 2.25 GiB
    path = tmp_path / "rows.parquet"
    write_group(path, TYPES[name], rows, MIB, compression)
    footer = pq.read_metadata(path)
    assert footer.num_row_groups == 1
    assert footer.row_group(0).total_byte_size > 1 << 31
    command = [sys.executable, "-c", _READING, str(path), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed, sizes, needed_mib = json.loads(done.stdout.splitlines()[-1])
    path.unlink()
    assert listed == rows
    assert len(sizes) == 16 * 5
    assert min(sizes) >= MIB
    assert needed_mib < MOST_MIB
