"""The store of local files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline.storage.names import as_name, as_text
from pipeline.storage.store import Object, Read, Store, StoreError, pages

_PAGE = 4096
_NO_FILE = "the path is not a file"
_NOT_A_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV)


class LocalStore(Store):
    """Files by their paths, as text (`pipeline.storage.names`). Whatever is no file or folder is not opened: a named
    pipe would wait for a writer, and a device may have no end.

    What `write` and `create` have written outlasts a power cut once they return: the file is on the disk before it has
    its name, and then the folder that has the name, and every folder that was made for it.
    """

    def stat(self, uri: str) -> Object:
        return _object(uri, os.stat(as_name(uri)))

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(as_name(uri))

    def names(self, uri: str) -> list[str]:
        try:
            return sorted(as_text(name) for name in os.listdir(as_name(uri)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, uri: str) -> bytes:
        with open(_opened(uri), "rb") as file:
            return file.read()

    def get(self, uri: str, read: Read, timeout_s: float) -> bytes:
        try:
            with open(_opened(uri), "rb") as file:
                status = os.fstat(file.fileno())
                read.check_tag(_etag(status))
                first, last = read.start or 0, status.st_size if read.end is None else read.end
                read.check_size(last - first)
                file.seek(first)
                return file.read(last - first)
        except FileNotFoundError as reason:
            raise StoreError("not_found", "the object is not there") from reason
        except PermissionError as reason:
            raise StoreError("forbidden", "the store refuses to read the object") from reason
        except MemoryError as reason:
            raise StoreError("out_of_memory", "not enough memory to hold the object") from reason
        except (OSError, ValueError) as reason:
            no_file = isinstance(reason, OSError) and reason.errno in _NOT_A_FILE
            message = _NO_FILE if no_file else "the store failed to read the object"
            raise StoreError("unreadable", message) from reason

    def write(self, uri: str, data: bytes) -> None:
        temporary = _written(uri, data)
        try:
            os.replace(temporary, as_name(uri))
        except BaseException:
            os.unlink(temporary)
            raise
        _sync(os.path.dirname(temporary))

    def create(self, uri: str, data: bytes) -> bool:
        temporary = _written(uri, data)
        try:
            os.link(temporary, as_name(uri))  # atomic, and fails if the name exists
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync(os.path.dirname(temporary))
        return True

    def sync(self, uri: str, known: set[str]) -> None:
        """Bring the files directly in a folder, which others have written, to the disk; and the folder's own name.

        Files named in ``known`` are left out. Those that are there now are added to it.
        """
        folder = as_name(uri)
        found = {entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)}
        for name in sorted(found - known):
            with contextlib.suppress(FileNotFoundError):  # a temporary file, which has its name by now
                _sync(os.path.join(folder, name))
        known |= found
        _sync(folder)
        _sync(os.path.dirname(folder))

    def delete(self, uri: str) -> None:
        try:
            os.remove(as_name(uri))
        except FileNotFoundError:
            return

    def walk(self, uri: str, begins: str) -> Iterator[pa.Table]:
        """Folder by folder, in the order of names. Files that cannot be examined have an empty tag, and get a row."""
        return pages(_walk(as_name(uri), frozenset(), begins), _PAGE)

    def open(self, uri: str, read: Read) -> BinaryIO:
        try:
            descriptor = _opened(uri)
        except OSError as reason:
            if reason.errno in _NOT_A_FILE:
                raise StoreError("unreadable", _NO_FILE) from reason
            raise
        try:
            read.check_tag(_etag(os.fstat(descriptor)))
        except BaseException:
            os.close(descriptor)
            raise
        return cast("BinaryIO", os.fdopen(descriptor, "rb"))


def _opened(uri: str) -> int:
    """A descriptor of a regular file, to read it. `OSError` with an errno of `_NOT_A_FILE` for everything else."""
    # O_NONBLOCK, since opening a named pipe would otherwise wait for a writer. It changes nothing for regular files.
    descriptor = os.open(as_name(uri), os.O_RDONLY | os.O_NONBLOCK)
    if not stat_module.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR, _NO_FILE)
    return descriptor


def _written(uri: str, data: bytes) -> str:
    """Write the data to a new file in the folder of ``uri``; returns the file's name."""
    name = as_name(uri)
    _make_folder(os.path.dirname(name))
    temporary = f"{name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary


def _make_folder(folder: str) -> None:
    """Make a folder and those above it, each on the disk before there is anything in it."""
    if not folder or os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
    _sync(above or os.curdir)


def _sync(name: str) -> None:
    """Bring a file or a folder to the disk. File systems that cannot do this for a folder keep their own promises."""
    descriptor = os.open(name or os.curdir, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as reason:
        if reason.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def _walk(folder: str, above: frozenset[tuple[int, int]], begins: str = "") -> Iterator[Object]:
    """The files below a folder, which is a name of the system. ``above`` are the folders on the way to it: links to
    them are not followed."""
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # A folder that cannot be opened becomes one failed input, so that its files are not silently missing.
        yield Object(as_text(folder), 0, "")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if not as_text(entry.name).startswith(begins):
            continue
        try:
            status = entry.stat()
        except OSError:  # a broken link
            yield Object(as_text(entry.path), 0, "")
            continue
        if stat_module.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, above | {here})
        else:
            yield _object(as_text(entry.path), status)


def _object(uri: str, status: os.stat_result) -> Object:
    try:
        written = datetime.fromtimestamp(status.st_mtime_ns // 1_000_000 / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a year that Python does not have
        written = None
    return Object(uri, status.st_size, _etag(status), written)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
