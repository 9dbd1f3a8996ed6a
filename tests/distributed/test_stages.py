"""Blocks of rows: what failed and what did not are put together again, whatever their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.distributed.stages import _Block
from pipeline.rows import ERROR_TYPE
from pipeline.table.parts import read_part, write_part
from pipeline.table.schema import TableSchema

MIB = 1 << 20
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ERROR = {"stage": "prepare", "code": "truncated", "message": "it ends too early"}


def block_of(columns: pa.Table, failed: list[int]) -> _Block:
    block = _Block(pa.table({"ordinal": pa.array(range(columns.num_rows))}))
    block.keep(columns, pa.array([ERROR if row in failed else None for row in range(columns.num_rows)], ERROR_TYPE))
    return block


@pytest.mark.parametrize("failed", [[], [0], [4], [0, 1, 4], [1, 3], [0, 1, 2, 3, 4]])
def test_failed_rows_are_null_in_their_places(failed: list[int]) -> None:
    columns = pa.table({"n": pa.array([10, 11, 12, 13, 14]), "name": pa.array(list("abcde"))})
    found = block_of(columns, failed).scattered()
    assert found.schema == columns.schema
    assert found["n"].to_pylist() == [None if row in failed else 10 + row for row in range(5)]
    assert found["name"].to_pylist() == [None if row in failed else "abcde"[row] for row in range(5)]


def test_a_block_without_rows() -> None:
    assert block_of(pa.table({"n": pa.array([], pa.int64())}), []).scattered().num_rows == 0


def large(rows: int) -> pa.Table:
    """Masks of 1 MiB each, which share one buffer."""
    mask = pa.array([{"bytes": bytes(MIB), "path": None}], PICTURE)
    return pa.table({"mask": pa.chunked_array([mask] * rows)})


NAMES = ["uri", "model", "settings", "run_id"]
SCHEMA = TableSchema(
    columns=pa.schema([*((name, pa.string()) for name in NAMES), ("mask", PICTURE)]),
    result="mask",
    stored_as_is=("mask.bytes",),
)


def rows_of(count: int) -> pa.Table:
    return pa.table({name: [name] * count for name in NAMES}).append_column("mask", large(count)["mask"])


def test_masks_of_more_than_2_gib_stay_in_their_rows() -> None:
    found = block_of(large(2304), []).scattered()
    assert found.num_rows == 2304
    block = _Block(pa.table({"ordinal": pa.array(range(2306))}))
    block.columns, block.good = large(2304), np.setdiff1d(np.arange(2306), [7, 2305])
    found = block.scattered()
    assert np.flatnonzero(found["mask"].is_null().to_numpy()).tolist() == [7, 2305]


def test_a_large_part_has_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.table.parts._GROUP_BYTES", 3 * MIB)
    monkeypatch.setattr("pipeline.storage.columnar._MAX_READ_BYTES", 3 * MIB)
    part = write_part(str(tmp_path), SCHEMA, rows_of(10), "run", "model")
    footer = pq.read_metadata(tmp_path / part.path)
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [2, 1, 2, 2, 1, 2]
    assert read_part(str(tmp_path), part).equals(rows_of(10))


@pytest.mark.heavy
def test_a_part_of_more_than_2_gib_is_written_and_read(tmp_path: Path) -> None:
    """Incompressible masks are stored as they are, so the file, its column and its row group are above 2 GiB."""
    part = write_part(str(tmp_path), SCHEMA, rows_of(2304), "run", "model")
    assert part.size > 1 << 31
    found = read_part(str(tmp_path), part)
    assert found.num_rows == 2304
    assert all(len(found["mask"][row].as_py()["bytes"]) == MIB for row in (0, 1000, 2303))
