"""Comparison of tables: keys, offsets and errors must be equal, masks in all but 1 of 10,000 pixels, floats to 1e-4."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.images.outputs import decode_mask
from pipeline.table.readers import open_delta


def table_rows(sink: str) -> list[dict[str, Any]]:
    """All rows of a table, sorted by key."""
    found = pa.table(open_delta(sink).to_pyarrow_table()).to_pylist()
    return sorted(found, key=lambda row: (row["uri"], row["member"] or "", row["model"]))


def assert_equal_tables(one: str, other: str) -> None:
    left, right = table_rows(one), table_rows(other)
    assert [_key(row) for row in left] == [_key(row) for row in right]
    for mine, theirs in zip(left, right, strict=True):
        assert_equal_rows(mine, theirs)


def assert_equal_rows(mine: dict[str, Any], theirs: dict[str, Any], ignored: tuple[str, ...] = ("run_id",)) -> None:
    for name in mine:
        if name not in ignored:
            _assert_equal(name, mine[name], theirs[name])


def _key(row: dict[str, Any]) -> tuple[str, str | None, str]:
    return row["uri"], row["member"], row["model"]


def _assert_equal(name: str, mine: Any, theirs: Any) -> None:
    if name == "mask" and mine is not None and theirs is not None:
        left, right = decode_mask(mine["bytes"]), decode_mask(theirs["bytes"])
        assert left.shape == right.shape
        assert np.count_nonzero(left != right) <= left.size / 10_000
    elif name == "class_pixels" and mine is not None and theirs is not None:
        assert sum(abs(a - b) for a, b in zip(mine, theirs, strict=True)) <= sum(mine) / 5_000
    elif name == "paragraphs" and mine is not None and theirs is not None:
        assert [(p["start"], p["end"]) for p in mine] == [(p["start"], p["end"]) for p in theirs]
        assert all(math.isclose(p["score"], q["score"], abs_tol=1e-4) for p, q in zip(mine, theirs, strict=True))
    elif name == "embedding" and mine is not None and theirs is not None:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)
    elif isinstance(mine, float) and isinstance(theirs, float):
        assert math.isclose(mine, theirs, abs_tol=1e-4), name
    else:
        assert mine == theirs, name
