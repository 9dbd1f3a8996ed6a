"""Reading Parquet and Arrow files. This is the only module that opens them; `tests/test_doors.py` keeps it so.

An Arrow schema can name an extension type for a column. If this process has a type of that name, pyarrow calls its
code as soon as the schema is read, and again for each value. The types of Ray Data unpickle what they are given, so a
stranger's file could run code in the process that lists it.

Here, no schema reaches pyarrow before the names of extension types in it have been changed, so that no type is found.
A column then has its storage type, and its metadata tell which extension type was meant.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, JobFailed, RequestError

_SCHEMA, _HIDDEN_SCHEMA = b"ARROW:schema", b"ARROW:schem_"
_EXTENSION, _HIDDEN_EXTENSION = b"ARROW:extension:name", b"ARROW:extension:nam_"
_MAX_FOOTER_BYTES = 1 << 28
_MAX_READ_BYTES = 1 << 30  # before compression, that are read at once
_PIECE_BYTES = 4 << 20  # of a column that is read in batches
_PARQUET_END, _ARROW_END = b"PAR1", b"ARROW1"
#: Extension types that have no code, and whose storage is what a task wants: text of JSON, and bytes of a UUID.
_HARMLESS = ("arrow.json", "arrow.uuid")


class ForeignType(InputError):
    """A column has an extension type."""


@contextmanager
def own_file(name: str) -> Iterator[None]:
    """Reads a file that a run has written, so that no failure is that of an input.

    `RequestError` if a column has an extension type, since then somebody else wrote it. `JobFailed` if it is damaged.
    """
    try:
        yield
    except ForeignType as reason:
        raise RequestError(f"{name}: {reason.message}") from reason
    except (InputError, pa.ArrowException) as reason:
        raise JobFailed(f"{name} is damaged") from reason


class ParquetReader:
    """An open Parquet file. Raises `InputError` ``bad_archive`` if it has no valid footer, and whatever pyarrow raises
    for other damage.

    A column of an extension type is refused with `InputError` when it is to be read; it does no harm to others.
    """

    def __init__(self, file: BinaryIO | pa.BufferReader) -> None:
        self.size, footer = _footer(file)
        self._source = file
        self.metadata: pq.FileMetaData = _metadata(footer)
        self.schema: pa.Schema = self._opened().schema_arrow
        """The columns with their storage types, and in their metadata the names of their extension types."""

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, with all or some columns."""
        self.check(columns)
        opened = self._opened()
        groups = [self.metadata.row_group(number).total_byte_size for number in range(self.metadata.num_row_groups)]
        if sum(groups) <= _MAX_READ_BYTES:
            return opened.read(columns)
        # Arrow cannot put more than 2 GiB of a struct's values into one array.
        parts = [opened.read_row_group(number, columns) for number in range(len(groups))]
        return pa.concat_tables(parts)

    def batches(
        self, columns: Sequence[str], rows: int, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Some columns of all or some row groups, in batches of at most ``rows`` rows.

        The file is read in pieces, so that a column of a row group may be larger than memory. A batch, and a page of
        each column, are in memory as a whole.
        """
        self.check(columns)
        # By default pyarrow reads all columns of a row group before the first batch, and each of them whole.
        opened = self._opened(pre_buffer=False, buffer_size=_PIECE_BYTES)
        yield from opened.iter_batches(rows, row_groups=groups, columns=columns)

    def _opened(self, **how: Any) -> pq.ParquetFile:
        return pq.ParquetFile(self._source, metadata=self.metadata, arrow_extensions_enabled=False, **how)

    def uuids(self) -> list[str]:
        """The columns whose values are UUIDs by their Parquet type, whichever Arrow type they have."""
        schema = self._opened().schema
        types = ((schema.column(number).path, schema.column(number).logical_type.type) for number in range(len(schema)))
        return [name for name, kind in types if kind == "UUID"]

    def check(self, columns: Sequence[str] | None = None) -> None:
        """`InputError` if one of the columns has an extension type, or has such a type inside. None: all columns."""
        for field in self.schema:
            found = extension_type(field) if columns is None or field.name in columns else None
            if found is not None and found not in _HARMLESS:
                raise ForeignType("bad_archive", f"column {field.name!r} has the extension type {found!r}")


def read_parquet(data: bytes | pa.Buffer, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file in memory, with all or some columns. Raises as `ParquetReader` does."""
    return ParquetReader(pa.BufferReader(data)).read(columns)


def read_arrow(source: pa.NativeFile) -> pa.Table:
    """The rows of an Arrow IPC file; if it is memory-mapped, without a copy.

    `InputError` ``bad_archive`` if it is cut, or if it has an extension type anywhere. No file that this project writes
    has one.
    """
    end = len(_ARROW_END)
    size = source.size()
    source.seek(max(0, size - end - 4))
    tail = source.read(end + 4)
    length = struct.unpack("<i", tail[:4])[0] if tail[4:] == _ARROW_END else -1
    if not 0 < length <= size - end - 4:
        raise InputError("bad_archive", "the Arrow file has no valid end")
    source.seek(size - end - 4 - length)
    if _EXTENSION in source.read(length):  # the end has the schema that is used
        raise ForeignType("bad_archive", "the Arrow file has a column with an extension type")
    source.seek(0)
    return pa.ipc.open_file(source).read_all()


def has_arrow_end(path: str) -> bool:
    """Whether a local file ends as an Arrow IPC file does. An empty one, or one of zeros, does not."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - len(_ARROW_END)))
        return file.read() == _ARROW_END


def extension_type(field: pa.Field) -> str | None:
    """The name of the extension type of a column, or of one inside of it, if it was read by `ParquetReader`."""
    name = (field.metadata or {}).get(_HIDDEN_EXTENSION)
    if name is not None:
        return name.decode(errors="backslashreplace")
    if pa.types.is_dictionary(field.type):
        return None  # its values are no field, and have no metadata
    inside = (field.type.field(index) for index in range(field.type.num_fields))
    return next((found for child in inside if (found := extension_type(child)) is not None), None)


def _footer(file: BinaryIO | pa.BufferReader) -> tuple[int, bytes]:
    """The size of a Parquet file, and its footer without the length and the mark behind it."""
    size = cast("int", file.seek(0, io.SEEK_END))
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _PARQUET_END or not 0 < length <= min(size - 12, _MAX_FOOTER_BYTES):
        raise InputError("bad_archive", "the Parquet file has no valid footer")
    file.seek(size - 8 - length)
    footer = file.read(length)
    file.seek(0)
    return size, footer


def _metadata(footer: bytes) -> pq.FileMetaData:
    """The metadata in a footer, with the names of extension types changed in the Arrow schema, if it has one.

    Names are replaced by names of the same length, so that nothing else in the footer changes.
    """
    is_plain = footer.count(_SCHEMA) == 1 and _HIDDEN_SCHEMA not in footer
    footer = footer.replace(_SCHEMA, _HIDDEN_SCHEMA)
    found = _parsed(footer)
    encoded = (found.metadata or {}).get(_HIDDEN_SCHEMA)
    if not is_plain or encoded is None or footer.count(encoded) != 1:
        return found  # pyarrow goes by the Parquet types alone
    try:
        schema = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return found
    changed = base64.b64encode(schema.replace(_EXTENSION, _HIDDEN_EXTENSION))
    if len(changed) != len(encoded):
        return found
    return _parsed(footer.replace(encoded, changed).replace(_HIDDEN_SCHEMA, _SCHEMA))


def _parsed(footer: bytes) -> pq.FileMetaData:
    whole = _PARQUET_END + footer + len(footer).to_bytes(4, "little") + _PARQUET_END
    return pq.read_metadata(pa.BufferReader(whole))
