"""What every kind of store can do, and the errors it does it with."""

from __future__ import annotations

import io
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, TypeVar

import pyarrow as pa

from pipeline.errors import InputError

T = TypeVar("T")

#: A page of a listing: one row for each object.
LISTING = pa.schema(
    [("uri", pa.string()), ("etag", pa.string()), ("size", pa.int64()), ("mtime", pa.timestamp("ms", tz="UTC"))]
)


@dataclass(frozen=True, slots=True)
class Object:
    """One stored object: its URI, its size in bytes, a tag that changes when its content does, when it was written."""

    uri: str
    size: int
    etag: str
    mtime: datetime | None = None


class StoreError(InputError):
    """A store did not deliver. ``transient``: asking again may help. ``throttled``: the store asked for patience."""

    def __init__(self, code: str, message: str, *, transient: bool = False, throttled: bool = False) -> None:
        super().__init__(code, message)
        self.transient = transient
        self.throttled = throttled


def with_retries(attempt: Callable[[float], T], deadline_s: float, request_s: float = 30.0) -> T:
    """``attempt(timeout_s)`` until it succeeds, fails for good, or the deadline is near; then `StoreError` ``timeout``.

    Pauses grow exponentially and are random over their whole length, so that clients which failed together do not come
    back together (full jitter: Brooker 2015, AWS Architecture Blog); they start longer where the store asked for it.
    """
    end = time.monotonic() + deadline_s
    attempts = 0
    if deadline_s <= 0:
        raise StoreError("timeout", "the store did not deliver the object in time")
    while True:
        try:
            # Most answers come at once; one that hangs is given up sooner the first time.
            patience = request_s / 3 if attempts == 0 else request_s
            return attempt(max(0.5, min(patience, end - time.monotonic())))
        except StoreError as reason:
            if not reason.transient:
                raise
            pause = random.uniform(0, min(10.0, (1.0 if reason.throttled else 0.1) * 2.0**attempts))
            attempts += 1
            if time.monotonic() + pause >= end:
                raise StoreError("timeout", "the store did not deliver the object in time") from reason
            time.sleep(pause)


def check_etag(found: str, wanted: str | None) -> None:
    """`StoreError` ``changed`` unless the tag is the wanted one, or none is."""
    if wanted is not None and found != wanted:
        raise StoreError("changed", "the object changed after it was listed")


class Store(ABC):
    """One kind of store. Every method takes whole URIs, as `pipeline.storage.canonical` gives them.

    `FileNotFoundError` and `PermissionError` mean what they say; other failures are an `OSError`.
    """

    @abstractmethod
    def stat(self, uri: str) -> Object:
        """One object; `FileNotFoundError` when it is not there."""

    @abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder of this name; on object stores, whether any key begins with it and a slash."""

    @abstractmethod
    def names(self, uri: str) -> list[str]:
        """What lies directly in a folder, sorted."""

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """The whole object, however long the store's own retries take."""

    @abstractmethod
    def get(
        self, uri: str, etag: str | None, max_bytes: int, timeout_s: float, start: int | None, end: int | None
    ) -> bytes:
        """One attempt to read an object or the range [start, end) of it. `StoreError` says what failed.

        ``etag``: the object must still have it, else ``changed``. An object of more than ``max_bytes`` is refused
        before it is read.
        """

    def fetch(
        self, uri: str, etag: str | None, max_bytes: int, deadline_s: float, start: int | None, end: int | None
    ) -> bytes:
        """`get`, again and again until it succeeds, fails for good, or the deadline is near."""
        return with_retries(lambda timeout_s: self.get(uri, etag, max_bytes, timeout_s, start, end), deadline_s)

    @abstractmethod
    def write(self, uri: str, data: bytes) -> None:
        """Write in one step: readers see the old content or the new, never a part."""

    @abstractmethod
    def create(self, uri: str, data: bytes) -> bool:
        """Write only if there is no such object; False if there is one. Of several at once, one gets True."""

    @abstractmethod
    def delete(self, uri: str) -> None:
        """Remove one object; one that is not there is fine."""

    @abstractmethod
    def walk(self, uri: str, begins: str) -> Iterator[pa.Table]:
        """Every object below a folder whose path in it begins so, as pages of `LISTING`, without holding them all."""

    @abstractmethod
    def open(self, uri: str, etag: str | None, deadline_s: float) -> BinaryIO:
        """The object as a file that can seek. ``etag`` as in `get`; ``deadline_s`` is for each read."""


class RangeFile(io.RawIOBase):
    """A stored object as a raw file: each read is a request for a range, so wrap it in a buffer."""

    def __init__(self, store: Store, uri: str, etag: str | None, deadline_s: float, most: int) -> None:
        """``most``: bytes of one request. A buffer asks again for what is missing."""
        self._store, self._uri, self._deadline_s, self._most = store, uri, deadline_s, most
        found = store.stat(uri)
        check_etag(found.etag, etag)
        self._size, self._etag = found.size, found.etag
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        end = min(self._position + min(len(view), self._most), self._size)
        if end <= self._position:
            return 0
        start = self._position
        data = with_retries(
            lambda timeout_s: self._store.get(self._uri, self._etag, end - start, timeout_s, start, end),
            self._deadline_s,
        )
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
