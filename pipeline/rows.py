"""Rows: the columns that a task gets for each input, and the column that says why a row failed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError

ERROR_TYPE = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])

#: Formats of an input's bytes: the object as it is stored, or a JSON object with the members of a record. A kind of
#: inputs can have further formats, by the endings of names (`InputKind.formats`).
OBJECT, RECORD = "object", "json"

#: Columns that a task gets: the bytes of an input, their format, and in training the bytes of its label, if labels are
#: files.
INPUT_SCHEMA = pa.schema([("data", pa.large_binary()), ("format", pa.string()), ("label", pa.large_binary())])

_SHARED_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class InputKind:
    """The kind of inputs that a task reads: which objects, and which parts of objects that contain many inputs."""

    suffixes: tuple[str, ...]
    """Lower-case endings of the names of inputs in a folder, without that of a compression (``.gz``)."""
    record: tuple[str, ...] = ()
    """Members of a record, such as ``("text", "doc_id")``; every record must have the first. Empty: the task reads no
    records."""
    bytes_columns: tuple[str, ...] = ("bytes", "image", "data", "content")
    """Columns of a Parquet file that can contain whole inputs as binary values, or as structs with ``bytes``. The first
    one that the file has is used."""
    formats: tuple[tuple[str, str], ...] = ()
    """Formats that the task is told of a whole object or a file in an archive: pairs of a lower-case ending of its
    name, without that of a compression, and the format. Other objects have the format `OBJECT`."""

    def format_of(self, name: str) -> str:
        """The format of an object with this name or URI, which has no ending of a compression any more."""
        ending = name[name.rfind(".") :].lower()
        return next((form for known, form in self.formats if known == ending), OBJECT)


@dataclass(frozen=True, kw_only=True)
class FailedInput:
    """An input that could not be used, and why."""

    uri: str
    member: str | None
    label: str | None
    """URI of its label, if the label is what failed."""
    code: str
    message: str

    def __str__(self) -> str:
        name = self.uri if self.member is None else f"{self.uri} ({self.member})"
        return f"{name if self.label is None else self.label}: {self.code}, {self.message}"


def failed_input(row: Mapping[str, Any], error: Mapping[str, Any], *, label: bool = False) -> FailedInput:
    """The failure of an input from its row of a listing and its error. ``label``: whether its label has failed."""
    return FailedInput(
        uri=row["uri"],
        member=row["member"],
        label=row["label_uri"] if label else None,
        code=error["code"],
        message=error["message"],
    )


def by_code(failed: Iterable[FailedInput]) -> dict[str, int]:
    """The number of failed inputs for each error code."""
    return dict(Counter(item.code for item in failed))


def error_value(stage: str, error: InputError) -> dict[str, str]:
    """The value of a row's column ``error``."""
    return {"stage": stage, "code": error.code, "message": error.message}


def binary_column(values: Sequence[bytes | pa.Buffer | None]) -> pa.ChunkedArray:
    """A column of type large_binary. Values of a mebibyte or more are not copied: they are chunks of their own, which
    share the values' memory."""
    chunks: list[pa.Array] = []
    small: list[bytes | None] = []

    def finish() -> None:
        if small:
            chunks.append(pa.array(small, pa.large_binary()))
            small.clear()

    for value in values:
        if value is None or len(value) < _SHARED_BYTES:
            small.append(None if value is None else bytes(value))
            continue
        finish()
        content = pa.py_buffer(value)
        offsets = pa.array([0, content.size], pa.int64()).buffers()[1]
        chunks.append(pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content]))
    finish()
    return pa.chunked_array(chunks, pa.large_binary())


def binary_values(column: pa.ChunkedArray) -> Iterator[pa.Buffer]:
    """The values of a column of type large_binary without nulls, which share its memory; a scalar's are a copy."""
    for chunk in column.chunks:
        _, offsets, content = chunk.buffers()
        edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        for start, end in itertools.pairwise(edges):
            yield pa.py_buffer(b"") if content is None else content.slice(start, end - start)


def each_row(stage: str, rows: Iterable[Any], work: Callable[[Any], Any]) -> tuple[list[Any], pa.Array]:
    """Call ``work`` on every row. Returns the results (None for failed rows) and the column ``error``.

    A row fails if ``work`` raises `InputError`, runs out of memory, or raises any other exception. The latter is a bug
    of this project. Its error is ``internal`` with the name of the exception's class. The exception's text is not
    stored, since it may differ from run to run.
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
