"""URIs to bytes and back: local paths and any fsspec URI, with the same calls.

A local object is named by its absolute path without a scheme, a remote one by its URI, both verbatim (no percent
encoding), so that what stands in a table opens with the same tools that wrote it.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import InputError, RequestError

Filesystem = Any  # fsspec ships no types


@dataclass(frozen=True, slots=True)
class Object:
    """One stored object: its URI, its size in bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


def canonical(uri: str) -> str:
    """``uri`` as this project names it: local paths absolute and without ``file://``, no trailing slash."""
    if uri.startswith("file://"):
        uri = uri[len("file://") :]
    if "://" in uri:
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri))


def filesystem(uri: str) -> tuple[Filesystem, str]:
    """The fsspec filesystem of a URI and the path in it."""
    try:
        fs, path = fsspec.core.url_to_fs(canonical(uri))
    except (ValueError, ImportError) as reason:
        raise RequestError(f"no filesystem for {uri!r}: the scheme is not known or its package is missing") from reason
    return fs, path


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in canonical(uri)


def join(uri: str, *parts: str) -> str:
    """``uri/part/part``."""
    return "/".join([canonical(uri), *parts])


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    return fs.exists(path)


def is_folder(uri: str) -> bool:
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    return fs.isdir(path)


def read(uri: str) -> bytes:
    """The whole object. `FileNotFoundError`, `PermissionError` or `OSError` as the filesystem raises them."""
    fs, path = filesystem(uri)
    return fs.cat_file(path)


def write(uri: str, data: bytes) -> None:
    """Write the object in one step: readers see the old content or the new, never a part."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def delete(uri: str) -> None:
    """Remove one object; one that is not there is fine."""
    fs, path = filesystem(uri)
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return


def names(uri: str) -> list[str]:
    """The names of what lies directly in a folder, sorted; none when there is no such folder."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    try:
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def stat(uri: str) -> Object:
    """One object's size and tag; `FileNotFoundError` when it is not there."""
    fs, path = filesystem(uri)
    return _object(canonical(uri), fs.info(path), fs)


def walk(uri: str) -> Iterator[Object]:
    """Every object below a folder, folder by folder in name order, without holding the listing in memory."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    if isinstance(fs, LocalFileSystem):
        yield from _walk_local(path)
        return
    protocol = canonical(uri).split("://", 1)[0]
    for _, _, files in fs.walk(path, detail=True):
        for name in sorted(files):
            info = files[name]
            yield _object(f"{protocol}://{info['name']}", info, fs)


def fetch(uri: str, etag: str | None, max_bytes: int, start: int | None = None, end: int | None = None) -> bytes:
    """An input's bytes, or a typed `InputError`. ``etag`` is the listed one; a local file is checked against it."""
    fs, path = filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            # Not blocking: opening a named pipe would wait for a writer that never comes.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat_module.S_ISREG(status.st_mode):
                    raise InputError("unreadable", "the path is not a file")
                if etag is not None and _local_etag(status) != etag:
                    raise InputError("changed", "the file changed after it was listed")
                first, last = start or 0, status.st_size if end is None else end
                _bound(last - first, max_bytes)
                file.seek(first)
                return file.read(last - first)
        data = fs.cat_file(path, start=start, end=end)
    except InputError:
        raise
    except Exception as reason:
        raise input_error(reason) from reason
    _bound(len(data), max_bytes)
    return data


def input_error(reason: BaseException) -> InputError:
    """The typed error behind what a filesystem raised."""
    if isinstance(reason, FileNotFoundError):
        return InputError("not_found", "the object is not there")
    if isinstance(reason, PermissionError):
        return InputError("forbidden", "the store refuses to read the object")
    if isinstance(reason, TimeoutError):
        return InputError("timeout", "the store did not answer in time")
    if isinstance(reason, OSError) and reason.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return InputError("unreadable", "the path is not a file")
    if isinstance(reason, MemoryError):
        return InputError("out_of_memory", "not enough memory to hold the object")
    return InputError("unreadable", "the store failed to read the object")


def delta_options(uri: str) -> dict[str, str]:
    """What delta-rs needs besides the usual AWS environment to write to a store with plain HTTP or an own endpoint."""
    if is_local(uri):
        return {}
    options = {"aws_conditional_put": "etag"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    return options


def _bound(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputError("too_large", f"{size} bytes, more than the limit of {max_bytes}")


def _walk_local(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Object]:
    """What lies below a folder. ``above``: the folders on the way, so that a link to one of them is not followed."""
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # A folder that cannot be opened is one input, so that what it hides is not silently missing.
        yield Object(folder, 0, "")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # a broken link: listed, so that it gets its row
            yield Object(entry.path, 0, "")
            continue
        if stat_module.S_ISDIR(status.st_mode):
            yield from _walk_local(entry.path, above | {here})
        else:
            yield Object(entry.path, status.st_size, _local_etag(status))


def _local_etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _object(uri: str, info: dict[str, Any], fs: Filesystem) -> Object:
    if isinstance(fs, LocalFileSystem):
        status = os.stat(info["name"])
        return Object(uri, status.st_size, _local_etag(status))
    tag = info.get("ETag") or info.get("etag") or fs.ukey(info["name"])
    return Object(uri, int(info.get("size") or 0), str(tag).strip('"'))
