"""Binary columns share the memory of large values."""

from __future__ import annotations

import pyarrow as pa

from pipeline.rows import binary_column, binary_values


def test_a_binary_column_has_its_values_and_copies_no_large_ones() -> None:
    large, other = bytes(range(256)) * 5_000, pa.py_buffer(b"x" * (1 << 20))
    values = [b"a", None, large, b"", other, b"b"]
    found = binary_column(values)
    assert found.type == pa.large_binary()
    assert found.to_pylist() == [None if value is None else bytes(value) for value in values]
    shared = list(binary_values(found.drop_null()))
    assert [bytes(value) for value in shared] == [bytes(value) for value in values if value is not None]
    assert pa.table({"data": found}).slice(2, 2)["data"].to_pylist() == [large, b""]
    assert binary_column([]).to_pylist() == []


def test_values_are_those_of_slices_and_share_their_memory() -> None:
    large, other = bytes(range(256)) * 5_000, b"x" * (1 << 20)
    column = binary_column([b"a", b"bc", large, b"", other])
    shared = list(binary_values(column))
    assert [shared[place].address for place in (2, 4)] == [pa.py_buffer(value).address for value in (large, other)]
    for start in range(6):
        for stop in range(start, 6):
            part = column.slice(start, stop - start)
            assert [bytes(value) for value in binary_values(part)] == part.to_pylist()
