"""What every kind of store can do, and the errors it does it with."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO, TypeVar

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage.retries import Verdict, retry

T = TypeVar("T")

_TOO_LATE = "the store did not deliver the object in time"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What is asked of an object, and on which conditions."""

    etag: str | None = None
    """The object must still have this tag, else it has ``changed``; None: whatever it has."""
    start: int | None = None
    """First byte; None: the object's first."""
    end: int | None = None
    """The byte after the last one; None: to the object's end."""
    max_bytes: int = 1 << 50
    """More bytes than this are refused as ``too_large``, before they are read."""
    deadline_s: float = 60.0
    """Seconds until the bytes must have arrived, however many attempts it takes. Of an open file: for each read."""

    @property
    def is_whole(self) -> bool:
        """Whether the whole object is asked for."""
        return self.start is None and self.end is None

    def part(self, start: int, end: int) -> Read:
        """The same of the range [start, end)."""
        return replace(self, start=start, end=end)

    def check_tag(self, found: str) -> None:
        """`StoreError` ``changed`` unless the tag that was found is the wanted one."""
        if self.etag is not None and found != self.etag:
            raise StoreError("changed", "the object changed after it was listed")

    def check_size(self, size: int) -> None:
        """`StoreError` ``too_large`` where so many bytes are more than the limit."""
        if size > self.max_bytes:
            raise StoreError("too_large", f"{size} bytes, more than the limit of {self.max_bytes}")


class StoreError(InputError):
    """A store did not deliver. ``transient``: asking again may help. ``throttled``: the store asked for patience."""

    def __init__(self, code: str, message: str, *, transient: bool = False, throttled: bool = False) -> None:
        super().__init__(code, message)
        self.transient = transient
        self.throttled = throttled


def with_retries(attempt: Callable[[float], T], deadline_s: float, request_s: float = 30.0) -> T:
    """`retry` for attempts that raise `StoreError`. When the deadline is near: `StoreError` ``timeout``."""
    if deadline_s <= 0:
        raise StoreError("timeout", _TOO_LATE)
    try:
        return retry(attempt, _judge, deadline_s, request_s=request_s)
    except StoreError as reason:
        if reason.transient:
            raise StoreError("timeout", _TOO_LATE) from reason
        raise


def _judge(reason: Exception) -> Verdict:
    if not isinstance(reason, StoreError) or not reason.transient:
        return "final"
    return "throttled" if reason.throttled else "transient"


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
    def get(self, uri: str, read: Read, timeout_s: float) -> bytes:
        """One attempt to read an object or a range of it. `StoreError` says what failed."""

    def fetch(self, uri: str, read: Read) -> bytes:
        """`get`, again and again until it succeeds, fails for good, or the deadline is near."""
        return with_retries(lambda timeout_s: self.get(uri, read, timeout_s), read.deadline_s)

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
    def open(self, uri: str, read: Read) -> BinaryIO:
        """The object as a file that can seek. Of ``read`` the tag and the deadline count, at every read."""


class RangeFile(io.RawIOBase):
    """A stored object as a raw file: each read is a request for a range, so wrap it in a buffer."""

    def __init__(self, store: Store, uri: str, read: Read, most: int) -> None:
        """``most``: bytes of one request. A buffer asks again for what is missing."""
        self._store, self._uri, self._most = store, uri, most
        found = store.stat(uri)
        read.check_tag(found.etag)
        self._size, self._read = found.size, replace(read, etag=found.etag)
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
        asked = self._read.part(start, end)
        data = with_retries(lambda timeout_s: self._store.get(self._uri, asked, timeout_s), asked.deadline_s)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
