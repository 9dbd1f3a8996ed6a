"""Tar archives, read header by header: which files they have, and whether they end as an archive must.

The standard library's `tarfile` takes a damaged header for the end, and reads an extended header into memory whatever
its size. Here, what cannot be read is skipped and reported, and no header is believed beyond the bytes that are there.
POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block", with the extensions of GNU tar.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import InputError
from pipeline.source.compression import Progress
from pipeline.storage.names import as_text

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(_BLOCK)
_MAX_HEADER_BYTES = 1 << 20
_MAX_SIZE = 1 << 60
_PAX, _PAX_GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), (tarfile.XGLTYPE,)
_SPARSE_KEYS = ("GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.numblocks", "GNU.sparse.size")


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A regular file in an archive. ``is_sparse``: its bytes are not the range [start, start + size) of the archive."""

    name: str
    start: int
    size: int
    is_sparse: bool


def archived_files(file: BinaryIO, is_plain: bool, progress: Progress) -> Iterator[ArchivedFile]:
    """Yield the regular files of an archive, as long as all bytes of a file are there.

    Raises `InputError` in the end if the archive is damaged, cut, has no end mark (two blocks of zeros), or has
    anything but zeros after it. ``is_plain``: the archive is not compressed, so its size is known.
    """
    yield from _Archive(file, is_plain, progress).files()


class _Archive:
    def __init__(self, file: BinaryIO, is_plain: bool, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._size: int | None = None
        if is_plain:
            self._size = file.seek(0, io.SEEK_END)
            file.seek(0)
        self._position = 0
        self._problem: InputError | None = None
        self._lost = False  # after a damaged header, only a block with the mark of a header is taken for one
        self._global: dict[str, bytes] = {}

    def files(self) -> Iterator[ArchivedFile]:
        zeros, extended = 0, dict[str, bytes]()
        while len(block := self._read(_BLOCK)) == _BLOCK:
            self._progress.check()
            if block == _ZEROS:
                zeros += 1
                continue
            if zeros:
                where = "after its end" if zeros > 1 else "after a block of zeros"
                self._report("bad_archive", f"the archive goes on {where}")
            zeros = 0
            item = self._header(block)
            if item is None:
                self._report("bad_archive", "the archive has a damaged header")
                self._lost, extended = True, {}
                continue
            self._lost = False
            self._progress.made()
            if item.type in (*_PAX, *_PAX_GLOBAL, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                self._extend(item, extended)
                continue
            found = self._file_of(item, block, {**self._global, **extended})
            extended = {}
            if found is not None:
                yield found
        if block.strip(b"\0"):
            self._report("bad_archive", "the archive ends in a header")
        if zeros < 2:
            self._report("bad_archive", "the archive is cut, or has no end mark")
        if self._problem is not None:
            raise self._problem

    def _header(self, block: bytes) -> tarfile.TarInfo | None:
        if self._lost and block[257:262] != b"ustar":
            return None
        try:
            item = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError):
            return None
        return item if 0 <= item.size <= _MAX_SIZE else None

    def _extend(self, item: tarfile.TarInfo, extended: dict[str, bytes]) -> None:
        """Read an extended header, which is about the next file, or about all that follow."""
        if item.size > _MAX_HEADER_BYTES:
            self._report("too_large", f"a header of {item.size} bytes, more than the limit of {_MAX_HEADER_BYTES}")
            self._skip(item.size)
            if item.type in (*_PAX, tarfile.GNUTYPE_LONGNAME):
                extended["path"] = b""  # the next file has a name that is not known
            return
        data = self._read(item.size)
        self._skip(-item.size % _BLOCK, padded=False)
        if item.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = data.split(b"\0", 1)[0]
        elif item.type != tarfile.GNUTYPE_LONGLINK:
            records = _pax_records(data)
            if records is None:
                self._report("bad_archive", "the archive has a damaged pax header")
            else:
                (self._global if item.type in _PAX_GLOBAL else extended).update(records)

    def _file_of(self, item: tarfile.TarInfo, block: bytes, extended: dict[str, bytes]) -> ArchivedFile | None:
        """The file that a header is about, after its data were skipped; None if it is not a file, or not whole."""
        size = item.size
        if "size" in extended:
            if not extended["size"].isdigit() or len(extended["size"]) > len(str(_MAX_SIZE)):
                self._report("bad_archive", "the archive has a damaged pax header")
                return None
            size = int(extended["size"])
        is_sparse = item.type == tarfile.GNUTYPE_SPARSE or any(key in extended for key in _SPARSE_KEYS)
        if item.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more and len(block := self._read(_BLOCK)) == _BLOCK:
                more = block[504]
        if not item.isreg() and item.type in tarfile.SUPPORTED_TYPES:
            return None  # a folder or a link, which has no data whatever its size
        start = self._position
        if not self._skip(size):
            self._report("bad_archive", "the archive is cut in a file")
            return None
        path = extended.get("GNU.sparse.name", extended.get("path"))
        name = item.name if path is None else path.decode("utf-8", "surrogateescape")
        return ArchivedFile(as_text(name), start, size, is_sparse) if item.isreg() and name else None

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._position += len(data)
        return data

    def _skip(self, count: int, *, padded: bool = True) -> bool:
        """Skip data, and what fills their last block. Returns whether all data were there."""
        end = self._position + count
        target = end + (-count % _BLOCK if padded else 0)
        target = target if self._size is None else min(target, self._size)
        if target > self._position:
            self._position = self._file.seek(target)
        return self._position >= end

    def _report(self, code: str, message: str) -> None:
        if self._problem is None:
            self._problem = InputError(code, message)


def _pax_records(data: bytes) -> dict[str, bytes] | None:
    """The records ``length key=value`` of a pax header; None if it is damaged."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        digits, space, _ = data[position : position + 21].partition(b" ")
        if not space or not digits.isdigit():
            return None
        record = data[position + len(digits) + 1 : position + int(digits)]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or position + int(digits) > len(data):
            return None
        records[key.decode("utf-8", "replace")] = value
        position += int(digits)
    return records
