"""Rows: what a task is given of each input, and how a row says that it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError

ERROR_TYPE = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])

#: How the bytes of one input are wrapped: as the store has them, or as one JSON object with the members of a record.
OBJECT, RECORD = "object", "json"

#: What a task is given: the bytes of one input, how they are wrapped (`OBJECT` or `RECORD`), and in training the bytes
#: of its label where labels are files.
INPUT_SCHEMA = pa.schema([("data", pa.large_binary()), ("format", pa.string()), ("label", pa.large_binary())])


@dataclass(frozen=True, kw_only=True)
class InputKind:
    """Which objects a task reads, and what one input is in an object that holds many."""

    suffixes: tuple[str, ...]
    """Name endings of the objects in a folder that are inputs, lower case, without a compression's (``.gz``)."""
    record: tuple[str, ...] = ()
    """Members of a record, the one that every record has first, such as ``("text", "doc_id")``. Empty: inputs are
    never records."""
    bytes_columns: tuple[str, ...] = ("bytes", "image", "data", "content")
    """Columns of a Parquet file that may hold whole inputs as binary values, or as structs with ``bytes``; the first
    that is there counts."""


def error_value(stage: str, error: InputError) -> dict[str, str]:
    """A row's ``error`` struct."""
    return {"stage": stage, "code": error.code, "message": error.message}


def each_row(stage: str, rows: Iterable[Any], work: Callable[[Any], Any]) -> tuple[list[Any], pa.Array]:
    """``work`` on every row: its results (None where it failed) and the ``error`` column.

    `InputError` fails its row. Running out of memory fails its row. Any other exception is a defect of ours; it fails
    its row as ``internal`` and names the exception's class, never its text, which may differ from run to run.
    """
    results: list[Any] = []
    errors: list[dict[str, str] | None] = []
    for row in rows:
        result, error = None, None
        try:
            result = work(row)
        except InputError as reason:
            error = reason
        except MemoryError:
            error = InputError("out_of_memory", f"not enough memory to {stage} this input")
        except Exception as reason:
            error = InputError("internal", f"{stage} failed with {type(reason).__name__}")
        results.append(result)
        errors.append(None if error is None else error_value(stage, error))
    return results, pa.array(errors, ERROR_TYPE)
