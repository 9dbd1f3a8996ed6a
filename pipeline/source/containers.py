"""Containers: objects that hold many inputs. Tar archives, JSONL and Parquet files, and what is compressed.

What is compressed is read forward only, so that it is never held whole. A member of a plain tar is a range of the
object, which a store fetches without this module.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa
import zstandard

from pipeline import storage
from pipeline.errors import InputError
from pipeline.rows import ERROR_TYPE, OBJECT, RECORD, InputKind, error_value
from pipeline.source import records
from pipeline.storage import LISTING, Read

#: What is known of an input when it is listed. ``start`` and ``end`` say where it is in its container: bytes, after
#: decompression, or in a Parquet file the number of the row. ``error``: why it cannot be read, known already.
ENTRIES = pa.schema(
    [
        ("uri", pa.string()),
        ("member", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("mtime", LISTING.field("mtime").type),
        ("format", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("error", ERROR_TYPE),
    ]
)
COMPRESSIONS = (".gz", ".zst")
CHUNK_ROWS = 8192

_LINES, _PARQUET, _TAR = "lines", "parquet", "tar"
_BROKEN = (OSError, EOFError, InputError, zstandard.ZstdError, pa.ArrowException, tarfile.TarError)


def members(row: dict[str, Any], kind: InputKind) -> Iterator[pa.Table]:
    """The entries of a container; one failed entry where it cannot be read to its end."""
    container = kind_of(row["uri"])
    try:
        if container == _LINES:
            yield from _lines(row)
        elif container == _PARQUET:
            yield from _parquet_rows(row, kind)
        else:
            yield from _tar_files(row, kind)
    except _BROKEN as reason:
        failure = error_value("list", container_error(row["uri"], reason))
        yield _table([row | {"format": OBJECT, "error": failure}])


def read_members(
    listed: list[dict[str, Any]], wanted: list[int], kind: InputKind, limits: Read
) -> Iterator[tuple[int, bytes | InputError]]:
    """The bytes of some rows of `ENTRIES`, ``wanted``, in the order of their places in the container they share.

    The container is opened once. Raises what the store, the compression or Parquet raise: see `container_error`.
    """
    first = listed[wanted[0]]
    # The container must still have the listed tag: places in an older file would cut the new one anywhere.
    opened = storage.open_file(first["uri"], Read(etag=first["etag"], deadline_s=limits.deadline_s))
    if kind_of(first["uri"]) == _PARQUET:
        with opened:
            yield from records.read_rows(opened, kind, {listed[index]["start"]: index for index in wanted})
        return
    with decompress(first["uri"], opened) as file:
        position = 0
        for index in wanted:
            start, end = listed[index]["start"], listed[index]["end"]
            try:
                limits.check_size(end - start)
            except InputError as reason:
                yield index, reason
                continue
            if start != position:
                file.seek(start)
            content = file.read(end - start)
            position = start + len(content)
            if len(content) < end - start:
                yield index, InputError("changed", "the file is shorter than when it was listed")
                continue
            yield index, content


def container_error(uri: str, reason: BaseException) -> InputError:
    """The typed error behind what was raised while an object was read: the store's, or ``bad_archive``."""
    known = storage.input_error(reason)
    if isinstance(reason, InputError) or known.code != "unreadable":
        return known
    if uri.endswith(COMPRESSIONS) or kind_of(uri) in (_PARQUET, _TAR):
        return InputError("bad_archive", "the file that holds the records is broken")
    return known


def kind_of(uri: str) -> str | None:
    """What kind of container an object is, by its name; None: it is none."""
    name = uri.lower()
    if name.endswith(".parquet"):
        return _PARQUET
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    kinds = {".jsonl": _LINES, ".tar": _TAR, ".tgz": _TAR}
    return next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), None)


def is_plain_tar(uri: str) -> bool:
    """Whether the container is a tar archive without compression, so that its members are ranges of the object."""
    return uri.lower().endswith(".tar")


def decompress(uri: str, file: BinaryIO) -> BinaryIO:
    """A file's plain bytes. Its name says how it is compressed. The result can be sought forward only."""
    name = uri.lower()
    if name.endswith((".gz", ".tgz")):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return cast("BinaryIO", io.BufferedReader(_Forward(reader)))  # type: ignore[arg-type]
    return file


def _lines(row: dict[str, Any]) -> Iterator[pa.Table]:
    held: list[dict[str, Any]] = []
    with _open(row["uri"]) as file:
        start = 0
        for number, line in enumerate(file, 1):
            end = start + len(line)
            if line.strip():
                extra = {"member": str(number), "size": len(line), "format": RECORD, "start": start, "end": end}
                held.append(row | extra)
            start = end
            if len(held) == CHUNK_ROWS:
                yield _table(held)
                held = []
    if held:
        yield _table(held)


def _parquet_rows(row: dict[str, Any], kind: InputKind) -> Iterator[pa.Table]:
    count, format_ = records.count_rows(row["uri"], kind)
    shared = row | {"format": format_, "size": row["size"] // max(1, count)}
    for start in range(0, count, CHUNK_ROWS):
        numbers = range(start, min(start + CHUNK_ROWS, count))
        yield _table([shared | {"member": str(number + 1), "start": number} for number in numbers])


def _tar_files(row: dict[str, Any], kind: InputKind) -> Iterator[pa.Table]:
    """Files in a tar archive whose names end in a suffix of the kind; of two of one name, the last, as tar has it."""
    found: dict[str, dict[str, Any]] = {}
    mode: Any = "r:" if is_plain_tar(row["uri"]) else "r|"
    with _open(row["uri"]) as file, tarfile.open(fileobj=file, mode=mode, encoding="utf-8") as archive:
        while (item := archive.next()) is not None:
            if item.isreg() and item.name.lower().endswith(kind.suffixes) and kind_of(item.name) is None:
                start = item.offset_data
                extra = {"member": item.name, "size": item.size, "start": start, "end": start + item.size}
                found[item.name] = row | {"format": OBJECT} | extra
            cast("Any", archive).members = []  # else they pile up
    rows = list(found.values())
    for start in range(0, len(rows), CHUNK_ROWS):
        yield _table(rows[start : start + CHUNK_ROWS])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in ENTRIES.names}, schema=ENTRIES)


def _open(uri: str) -> BinaryIO:
    """A container's plain bytes as a file that can seek forward."""
    return decompress(uri, storage.open_file(uri))


class _Forward(io.RawIOBase):
    """A decompressing reader as a raw stream; zstandard's own cannot be buffered or iterated by line."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise OSError("only forward")
        while self._position < offset:
            step = len(self._reader.read(min(1 << 20, offset - self._position)))
            if not step:
                break
            self._position += step
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self._reader.readinto(buffer)
        self._position += count
        return count
