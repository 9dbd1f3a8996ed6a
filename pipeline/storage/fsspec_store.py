"""All other stores that fsspec supports: ``gs://``, ``az://``, ``http://``, ``memory://`` and so on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.storage.names import as_name, as_text
from pipeline.storage.store import Object, Read, Store, StoreError, pages

_PAGE = 1000


class FsspecStore(Store):
    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def stat(self, uri: str) -> Object:
        fs, path = self._at(uri)
        return self._object(fs, fs.info(path), uri)

    def is_folder(self, uri: str) -> bool:
        fs, path = self._at(uri)
        return bool(fs.isdir(path))

    def names(self, uri: str) -> list[str]:
        fs, path = self._at(uri)
        try:
            return sorted(as_text(entry.rstrip("/").rsplit("/", 1)[-1]) for entry in fs.ls(path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, uri: str) -> bytes:
        fs, path = self._at(uri)
        return cast("bytes", fs.cat_file(path))

    def get(self, uri: str, read: Read, timeout_s: float) -> bytes:
        try:
            fs, path = self._at(uri)
            if read.end is not None:
                read.check_size(read.end - (read.start or 0))
            if read.etag is not None:
                found = self._object(fs, fs.info(path), uri)
                read.check_tag(found.etag)
                if read.is_whole:
                    read.check_size(found.size)
            data = cast("bytes", fs.cat_file(path, start=read.start, end=read.end))
        except StoreError:
            raise
        except FileNotFoundError as reason:
            raise StoreError("not_found", "the object is not there") from reason
        except PermissionError as reason:
            raise StoreError("forbidden", "the store refuses to read the object") from reason
        except MemoryError as reason:
            raise StoreError("out_of_memory", "not enough memory to hold the object") from reason
        except TimeoutError as reason:
            raise StoreError("timeout", "the store did not answer in time", transient=True) from reason
        except Exception as reason:
            raise StoreError("unreadable", "the store failed to read the object", transient=True) from reason
        read.check_size(len(data))
        return data

    def write(self, uri: str, data: bytes) -> None:
        fs, path = self._at(uri)
        fs.pipe_file(path, data)

    def create(self, uri: str, data: bytes) -> bool:
        fs, path = self._at(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, uri: str) -> None:
        fs, path = self._at(uri)
        try:
            fs.rm_file(path)
        except FileNotFoundError:
            return

    def walk(self, uri: str, begins: str) -> Iterator[pa.Table]:
        return pages(self._walk(uri, begins), _PAGE)

    def _walk(self, uri: str, begins: str) -> Iterator[Object]:
        fs, path = self._at(uri)
        inside = f"{as_text(path).rstrip('/')}/{begins}"
        for _, _, files in fs.walk(path, detail=True):
            for name in sorted(files):
                info = files[name]
                if begins and not as_text(str(info["name"])).startswith(inside):
                    continue
                yield self._object(fs, info, f"{self._scheme}://{as_text(str(info['name'])).lstrip('/')}")

    def open(self, uri: str, read: Read) -> BinaryIO:
        fs, path = self._at(uri)
        if read.etag is not None:
            read.check_tag(self._object(fs, fs.info(path), uri).etag)
        return cast("BinaryIO", io.BufferedReader(fs.open(path, "rb")))

    def _at(self, uri: str) -> tuple[Any, str]:
        fs, path = filesystem_of(uri)
        fs.invalidate_cache()
        return fs, path

    def _object(self, fs: Any, info: dict[str, Any], uri: str) -> Object:
        tag = info.get("ETag") or info.get("etag") or fs.ukey(info["name"])
        written = next((info[name] for name in ("LastModified", "mtime", "created") if name in info), None)
        mtime = written if isinstance(written, datetime) else None
        return Object(uri, int(info.get("size") or 0), str(tag).strip('"'), mtime)


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the path in it. `RequestError` if no package knows the scheme.

    Not `url_to_fs`, which takes "::" in a name for a chain of stores, of which one may be another machine's disk.
    """
    name = as_name(uri)
    try:
        kind = fsspec.get_filesystem_class(name.partition("://")[0])
        return kind(**kind._get_kwargs_from_urls(name)), kind._strip_protocol(name)
    except (ValueError, ImportError) as reason:
        raise RequestError(f"no store for {uri!r}: the scheme is not known or its package is missing") from reason
