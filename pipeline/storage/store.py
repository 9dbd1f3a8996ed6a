"""The interface of all stores, and their errors."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import BinaryIO, TypeVar

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage.retries import Verdict, retry

T = TypeVar("T")

_TOO_LATE = "the store did not deliver the object in time"

#: Columns of a listing: one row for each object.
LISTING = pa.schema(
    [("uri", pa.string()), ("etag", pa.string()), ("size", pa.int64()), ("mtime", pa.timestamp("ms", tz="UTC"))]
)


@dataclass(frozen=True, slots=True)
class Object:
    """A stored object: its URI, size in bytes, tag (ETag; it changes with the content), and time of writing."""

    uri: str
    size: int
    etag: str
    mtime: datetime | None = None


def pages(objects: Iterable[Object], page_rows: int) -> Iterator[pa.Table]:
    """The objects as tables with the columns of `LISTING`, of at most ``page_rows`` rows. None is empty."""
    remaining = iter(objects)
    while page := list(islice(remaining, page_rows)):
        yield pa.table({name: [getattr(item, name) for item in page] for name in LISTING.names}, schema=LISTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A request to read an object or a range of it, with its conditions."""

    etag: str | None = None
    """Tag that the object must still have, or else `StoreError` ``changed``. None: any tag."""
    start: int | None = None
    """First byte of the range. None: from the beginning of the object."""
    end: int | None = None
    """End of the range (exclusive). None: to the end of the object."""
    max_bytes: int = 1 << 50
    """Largest number of bytes; more are refused as ``too_large`` before they are read."""
    deadline_s: float = 60.0
    """Seconds within which the bytes must arrive, over all attempts. For an open file: for each read."""

    @property
    def is_whole(self) -> bool:
        """Whether the request is for the whole object."""
        return self.start is None and self.end is None

    def part(self, start: int, end: int) -> Read:
        """The same request for the range [start, end)."""
        return replace(self, start=start, end=end)

    def check_tag(self, found: str) -> None:
        """`StoreError` ``changed`` if ``found`` is not the tag that the object must have."""
        if self.etag is not None and found != self.etag:
            raise StoreError("changed", "the object changed after it was listed")

    def check_size(self, size: int) -> None:
        """`StoreError` ``too_large`` if ``size`` is above the limit."""
        if size > self.max_bytes:
            raise StoreError("too_large", f"{size} bytes, more than the limit of {self.max_bytes}")


class StoreError(InputError):
    """A failed request to a store. ``transient``: a retry may help. ``throttled``: the store asked to slow down."""

    def __init__(self, code: str, message: str, *, transient: bool = False, throttled: bool = False) -> None:
        super().__init__(code, message)
        self.transient = transient
        self.throttled = throttled


def with_retries(attempt: Callable[[float], T], deadline_s: float, request_s: float = 30.0) -> T:
    """`retry` for attempts that raise `StoreError`. Raises `StoreError` ``timeout`` at the deadline."""
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
    """One kind of store. URIs are complete and canonical (`pipeline.storage.canonical`).

    Methods raise `FileNotFoundError`, `PermissionError`, or another `OSError` for all other failures.
    """

    @abstractmethod
    def stat(self, uri: str) -> Object:
        """One object. `FileNotFoundError` if it does not exist."""

    @abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether a folder of this name exists. On object stores: whether a key begins with the name and a slash."""

    @abstractmethod
    def names(self, uri: str) -> list[str]:
        """The names of the objects and folders directly in a folder, sorted."""

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """The bytes of an object. The store retries by its own rules."""

    @abstractmethod
    def get(self, uri: str, read: Read, timeout_s: float) -> bytes:
        """Try once to read an object or a range of it. Raises `StoreError`."""

    def fetch(self, uri: str, read: Read) -> bytes:
        """`get` with retries, until it succeeds, the failure is final, or the deadline is near."""
        return with_retries(lambda timeout_s: self.get(uri, read, timeout_s), read.deadline_s)

    @abstractmethod
    def write(self, uri: str, data: bytes) -> None:
        """Write an object atomically: readers see the old content or the new, never a part."""

    @abstractmethod
    def create(self, uri: str, data: bytes) -> bool:
        """Write an object only if it does not exist. Returns whether it was; of several callers, one gets True."""

    @abstractmethod
    def delete(self, uri: str) -> None:
        """Delete an object. It is no error if it does not exist."""

    @abstractmethod
    def walk(self, uri: str, begins: str) -> Iterator[pa.Table]:
        """All objects below a folder whose path in it begins with ``begins``, page by page, as tables of `LISTING`."""

    @abstractmethod
    def open(self, uri: str, read: Read) -> BinaryIO:
        """Open an object as a file that can seek. The tag and the deadline of ``read`` apply to every read."""


class RawFile(io.RawIOBase):
    """An unbuffered file for reading. Subclasses move ``_position``, by `seek` and `readinto`."""

    _position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position


class RangeFile(RawFile):
    """A stored object as an unbuffered file. Each read is a request for a range, so wrap it in a buffer."""

    def __init__(self, store: Store, uri: str, read: Read, most: int) -> None:
        """``most``: largest number of bytes of one request. A buffered reader asks again for the rest."""
        self._store, self._uri, self._most = store, uri, most
        found = store.stat(uri)
        read.check_tag(found.etag)
        self._size, self._read = found.size, replace(read, etag=found.etag)

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
