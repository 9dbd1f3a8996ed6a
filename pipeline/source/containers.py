"""Containers: objects that hold many inputs (tar archives, JSONL files and Parquet files), and compressed objects.

Compressed objects are read as a stream, so they are never in memory as a whole. A member of an uncompressed tar archive
is a byte range of the object, which `pipeline.source.fetch` reads without this module.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError
from pipeline.rows import ERROR_TYPE, OBJECT, RECORD, InputKind, error_value
from pipeline.source import records
from pipeline.source.archives import ArchivedFile, archived_files
from pipeline.source.compression import COMPRESSIONS, Progress, decompress, is_compressed
from pipeline.source.passed import PassedOver
from pipeline.storage import LISTING, Read

T = TypeVar("T")

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
CHUNK_ROWS = 8192

_LINES, _PARQUET, _TAR = "lines", "parquet", "tar"
_PIECE_BYTES = 1 << 20
#: A few bytes that are compressed can stand for any number of inputs. So many are listed, and one for each byte.
_PACKED_INPUTS = 1 << 20
_MAX_PACKED_FILES = 1 << 22  # of one archive, since their names are in memory until its end


def members(row: dict[str, Any], kind: InputKind, limits: Read, passed: PassedOver | None = None) -> Iterator[pa.Table]:
    """The entries of a container. If it cannot be read to its end, one more entry, which has failed, stands for it.

    Whatever is raised while one container is opened and read is the failure of this container. The deadline of
    ``limits`` is the time after which a container fails in which nothing is found.
    """
    buffered: list[dict[str, Any]] = []
    progress = Progress(limits.deadline_s)
    try:
        for found in _found(row, kind, progress, passed or PassedOver()):
            progress.made()
            buffered.append(row | found)
            if len(buffered) == CHUNK_ROWS:
                yield _table(buffered)
                buffered = []
                progress.made()  # the reader of the entries may have let us wait
    except Exception as reason:
        failure = error_value("list", container_error(row["uri"], reason))
        buffered.append(row | {"format": OBJECT, "error": failure})
    if buffered:
        yield _table(buffered)


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
            yield from records.read_rows(opened, kind, {listed[index]["start"]: index for index in wanted}, limits)
        return
    progress = Progress(limits.deadline_s)
    with decompress(first["uri"], opened, progress) as file:
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
            progress.made()


def container_error(uri: str, reason: BaseException) -> InputError:
    """The `InputError` for an exception while a container was read: the store's error, or ``bad_archive``."""
    known = storage.input_error(reason)
    if isinstance(reason, InputError) or known.code != "unreadable":
        return known
    if is_compressed(uri) or kind_of(uri) in (_PARQUET, _TAR):
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


def _found(row: dict[str, Any], kind: InputKind, progress: Progress, passed: PassedOver) -> Iterator[dict[str, Any]]:
    """What a container adds to its row, for each input in it."""
    container = kind_of(row["uri"])
    opened = storage.open_file(row["uri"])
    if container == _PARQUET:
        with opened:
            yield from _parquet_rows(opened, kind)
        return
    most = None
    if is_compressed(row["uri"]):
        most = opened.seek(0, io.SEEK_END) + _PACKED_INPUTS
        opened.seek(0)
    with closing(decompress(row["uri"], opened, progress)) as file:
        if container == _LINES:
            yield from _limited(_lines(file, progress), most)
        else:
            files = archived_files(file, is_plain_tar(row["uri"]), progress)
            yield from _tar_files(_limited(files, most and min(most, _MAX_PACKED_FILES)), kind, passed)


def _limited(items: Iterator[T], most: int | None) -> Iterator[T]:
    """The items, and after ``most`` of them an `InputError` ``too_large``."""
    for number, item in enumerate(items):
        if most is not None and number >= most:
            raise InputError("too_large", f"more inputs than the limit of {most} in a compressed file of its size")
        yield item


def _lines(file: BinaryIO, progress: Progress) -> Iterator[dict[str, Any]]:
    """The lines that are not blank. A line is read in pieces, since it may be longer than memory."""
    number, start, end, blank = 1, 0, 0, True
    while piece := file.readline(_PIECE_BYTES):
        progress.check()
        end += len(piece)
        blank = blank and not piece.strip()
        if not piece.endswith(b"\n"):
            continue
        if not blank:
            yield _line(number, start, end)
        number, start, blank = number + 1, end, True
    if not blank:
        yield _line(number, start, end)


def _line(number: int, start: int, end: int) -> dict[str, Any]:
    return {"member": str(number), "size": end - start, "format": RECORD, "start": start, "end": end}


def _parquet_rows(file: BinaryIO, kind: InputKind) -> Iterator[dict[str, Any]]:
    for numbers, format_, size in records.list_rows(file, kind):
        for number in numbers:
            yield {"member": str(number + 1), "size": size, "format": format_, "start": number}


def _tar_files(files: Iterator[ArchivedFile], kind: InputKind, passed: PassedOver) -> Iterator[dict[str, Any]]:
    """The files in a tar archive with a suffix of the kind. Of files with the same name, the last one, as tar does."""
    found: dict[str, tuple[int, int, bool]] = {}
    problem: Exception | None = None
    try:
        for item in files:
            if item.name.lower().endswith(kind.suffixes) and kind_of(item.name) is None:
                found[item.name] = (item.start, item.size, item.is_sparse)
            else:
                passed.add([item.name])
    except Exception as reason:
        problem = reason
    for name, (start, size, is_sparse) in found.items():
        extra = {"member": name, "size": size, "format": kind.format_of(name), "start": start, "end": start + size}
        if is_sparse:
            extra["error"] = error_value("list", InputError("bad_archive", "the file is stored with holes"))
        yield extra
    if problem is not None:
        raise problem


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in ENTRIES.names}, schema=ENTRIES)
