"""Reading the bytes of entries, with a typed error for each entry that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from pipeline import storage
from pipeline.config import check
from pipeline.errors import InputError
from pipeline.rows import ERROR_TYPE, InputKind, error_value
from pipeline.source.compression import decompress, is_compressed
from pipeline.source.containers import ENTRIES, container_error, is_plain_tar, read_members
from pipeline.storage import Read


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    max_bytes: int = 256 << 20
    """Largest input in bytes, after decompression; a larger one fails as too_large."""
    threads: int = 16
    """Number of inputs that one worker downloads at the same time."""
    deadline_s: float = 60.0
    """Seconds after which an input that has not arrived fails as timeout, retries included. Also the seconds after
    which a container fails in which no further input is found."""

    def __post_init__(self) -> None:
        check(self, "max_bytes", self.max_bytes >= 1, "be at least 1")
        check(self, "threads", self.threads >= 1, "be at least 1")
        check(self, "deadline_s", self.deadline_s > 0, "be positive")

    def limits(self, etag: str | None = None) -> Read:
        """The limits as a request for an object, which must have the tag ``etag`` if there is one."""
        return Read(etag=etag, max_bytes=self.max_bytes, deadline_s=self.deadline_s)


def fetch(rows: pa.Table, kind: InputKind, config: FetchConfig) -> tuple[list[bytes | None], pa.Array]:
    """The bytes of each entry, None if it failed, and the column ``error``. A failed input raises nothing."""
    listed = cast("list[dict[str, Any]]", rows.select(ENTRIES.names).to_pylist())
    groups: list[list[int]] = []
    for index, row in enumerate(listed):
        if index and _read_together(listed[index - 1], row):
            groups[-1].append(index)
        else:
            groups.append([index])
    data: list[bytes | None] = [None] * len(listed)
    errors: list[dict[str, str] | None] = [row["error"] for row in listed]

    def work(group: list[int]) -> None:
        try:
            for index, item in _fetch_group(listed, group, kind, config):
                if isinstance(item, InputError):
                    errors[index] = error_value("fetch", item)
                else:
                    data[index] = item
            failure = InputError("bad_archive", "the file that holds the records does not have this one")
        except Exception as reason:
            failure = container_error(listed[group[0]]["uri"], reason)
        for index in group:
            if data[index] is None and errors[index] is None:
                errors[index] = error_value("fetch", failure)

    if config.threads == 1 or len(groups) == 1:
        for group in groups:
            work(group)
    else:
        with ThreadPoolExecutor(min(config.threads, len(groups)), "fetch") as pool:
            list(pool.map(work, groups))
    return data, pa.array(errors, ERROR_TYPE)


def _read_together(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two entries are in the same container and can be read in one pass over it."""
    both = one["uri"] == other["uri"] and one["member"] is not None and other["member"] is not None
    return both and not is_plain_tar(one["uri"])


def _fetch_group(
    listed: list[dict[str, Any]], group: list[int], kind: InputKind, config: FetchConfig
) -> Iterator[tuple[int, bytes | InputError]]:
    first = listed[group[0]]
    group = [index for index in group if listed[index]["error"] is None]
    if not group:
        return
    group.sort(key=lambda index: listed[index]["start"] or 0)  # a compressed container can only be read forward
    limits = config.limits(first["etag"] or None)
    if first["member"] is None:
        yield group[0], _fetch_object(first["uri"], limits)
    elif is_plain_tar(first["uri"]):
        yield group[0], storage.fetch(first["uri"], limits.part(first["start"], first["end"]))
    else:
        yield from read_members(listed, group, kind, limits)


def _fetch_object(uri: str, read: Read) -> bytes:
    data = storage.fetch(uri, read)
    if not is_compressed(uri):
        return data
    try:
        with decompress(uri, io.BytesIO(data)) as file:
            plain = file.read(read.max_bytes + 1)
    except MemoryError:
        raise
    except Exception as reason:
        raise InputError("bad_archive", "the compressed data are broken") from reason
    if len(plain) > read.max_bytes:
        raise InputError("too_large", f"more than the limit of {read.max_bytes} bytes after decompression")
    return plain
