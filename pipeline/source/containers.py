"""Containers: objects that hold many inputs (tar archives, JSONL files and Parquet files), and compressed objects.

Compressed objects are read as a stream, so they are never in memory as a whole. A member of an uncompressed tar archive
is a byte range of the object, which `pipeline.source.fetch` reads without this module.
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

#: Columns of a listed input. ``start`` and ``end``: its byte range in its container, after decompression; in a Parquet
#: file ``start`` is the row's number. ``error``: why it cannot be read, if the listing has found that out.
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
    """The entries of a container. If it cannot be read to its end, there is one failed entry for the container."""
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
    """Yield (index, bytes) of some entries of one container, in the order of their positions in it.

    ``listed`` are rows of `ENTRIES`, and ``wanted`` are the indices of the entries to read. The container is opened
    once. Raises the exceptions of the store, the decompressor or Parquet: see `container_error`.
    """
    first = listed[wanted[0]]
    # The container must have the tag that was listed: in a newer file, the positions of the old one are meaningless.
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
    """The `InputError` for an exception while a container was read: the store's error, or ``bad_archive``."""
    known = storage.input_error(reason)
    if isinstance(reason, InputError) or known.code != "unreadable":
        return known
    if uri.endswith(COMPRESSIONS) or kind_of(uri) in (_PARQUET, _TAR):
        return InputError("bad_archive", "the file that holds the records is broken")
    return known


def kind_of(uri: str) -> str | None:
    """The kind of container by the object's name; None if it is not a container."""
    name = uri.lower()
    if name.endswith(".parquet"):
        return _PARQUET
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    kinds = {".jsonl": _LINES, ".tar": _TAR, ".tgz": _TAR}
    return next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), None)


def is_plain_tar(uri: str) -> bool:
    """Whether the container is an uncompressed tar archive, whose members are byte ranges of the object."""
    return uri.lower().endswith(".tar")


def decompress(uri: str, file: BinaryIO) -> BinaryIO:
    """A file with the decompressed bytes; the name decides on the compression. It can seek forward only."""
    name = uri.lower()
    if name.endswith((".gz", ".tgz")):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return cast("BinaryIO", io.BufferedReader(_Forward(reader)))  # type: ignore[arg-type]
    return file


def _lines(row: dict[str, Any]) -> Iterator[pa.Table]:
    buffered: list[dict[str, Any]] = []
    with _open(row["uri"]) as file:
        start = 0
        for number, line in enumerate(file, 1):
            end = start + len(line)
            if line.strip():
                extra = {"member": str(number), "size": len(line), "format": RECORD, "start": start, "end": end}
                buffered.append(row | extra)
            start = end
            if len(buffered) == CHUNK_ROWS:
                yield _table(buffered)
                buffered = []
    if buffered:
        yield _table(buffered)


def _parquet_rows(row: dict[str, Any], kind: InputKind) -> Iterator[pa.Table]:
    count, format_ = records.count_rows(row["uri"], kind)
    shared = row | {"format": format_, "size": row["size"] // max(1, count)}
    for start in range(0, count, CHUNK_ROWS):
        numbers = range(start, min(start + CHUNK_ROWS, count))
        yield _table([shared | {"member": str(number + 1), "start": number} for number in numbers])


def _tar_files(row: dict[str, Any], kind: InputKind) -> Iterator[pa.Table]:
    """The files in a tar archive with a suffix of the kind. Of files with the same name, the last one, as tar does."""
    found: dict[str, dict[str, Any]] = {}
    mode: Any = "r:" if is_plain_tar(row["uri"]) else "r|"
    with _open(row["uri"]) as file, tarfile.open(fileobj=file, mode=mode, encoding="utf-8") as archive:
        while (item := archive.next()) is not None:
            if item.isreg() and item.name.lower().endswith(kind.suffixes) and kind_of(item.name) is None:
                start = item.offset_data
                extra = {"member": item.name, "size": item.size, "start": start, "end": start + item.size}
                found[item.name] = row | {"format": OBJECT} | extra
            cast("Any", archive).members = []  # tarfile would keep all of them in memory
    rows = list(found.values())
    for start in range(0, len(rows), CHUNK_ROWS):
        yield _table(rows[start : start + CHUNK_ROWS])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in ENTRIES.names}, schema=ENTRIES)


def _open(uri: str) -> BinaryIO:
    """A container's decompressed bytes, as a file that can seek forward."""
    return decompress(uri, storage.open_file(uri))


class _Forward(io.RawIOBase):
    """A decompressing reader as an unbuffered file, since zstandard's cannot be buffered or iterated by lines."""

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
