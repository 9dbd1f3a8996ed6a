"""Source: what is to be read. Folders, globs, files, manifests and archives become entries; entries become bytes.

An *entry* is one input: ``(uri, member)`` with the tag, size and time that were listed. ``member`` is null for a whole
object, else the path of a file in a tar archive, or the number (from 1) of the line in a JSONL file or of the row in a
Parquet file. Entries travel as Arrow tables with the columns of `ENTRIES`.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import zstandard

from pipeline import storage
from pipeline.config import check
from pipeline.distributed.containers import (
    BYTES_COLUMNS,
    CHUNK_ROWS,
    COMPRESSIONS,
    ENTRIES,
    container_error,
    decompress,
    is_plain_tar,
    kind_of,
    members,
    read_members,
)
from pipeline.distributed.parallel import ordered
from pipeline.errors import InputError, RequestError
from pipeline.storage import LISTING
from pipeline.task import ERROR_TYPE, error_value

_GLOB = re.compile(r"[*?\[]")
_STAT_THREADS = 32
_LIST_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    max_bytes: int = 256 << 20
    """Largest input, in bytes, after decompression; a larger one fails as too_large."""
    threads: int = 16
    """Downloads at the same time in one worker."""
    deadline_s: float = 60.0
    """Seconds until an input that does not arrive fails as timeout, whatever attempts were made."""

    def __post_init__(self) -> None:
        check(self, "max_bytes", self.max_bytes >= 1, "be at least 1")
        check(self, "threads", self.threads >= 1, "be at least 1")
        check(self, "deadline_s", self.deadline_s > 0, "be positive")


def entries(sources: Sequence[str], suffixes: Sequence[str]) -> Iterator[pa.Table]:
    """All inputs of all sources, as tables of `ENTRIES` of about `CHUNK_ROWS` rows. One may come twice.

    A source is a folder (every object below it whose name ends in one of ``suffixes``), a glob (``*`` and ``?`` stay
    within a folder, ``**`` does not), a single object, or a manifest: a Parquet, CSV or JSONL file with a ``uri``
    column, and perhaps ``etag`` and ``size``, which are then believed. Local folders come in the order of their names.
    `RequestError` when there is nothing there.
    """
    assert not isinstance(sources, str)
    held: list[pa.Table] = []
    for source in sources:
        for page in _expanded(_pages(source, suffixes), suffixes):
            held.append(page)
            if sum(part.num_rows for part in held) >= CHUNK_ROWS:
                yield pa.concat_tables(held)
                held = []
    if held:
        yield pa.concat_tables(held)


def fetch(rows: pa.Table, config: FetchConfig) -> tuple[list[bytes | None], pa.Array]:
    """The bytes of each entry (None where it failed) and the ``error`` column. Never raises for one bad input."""
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
            for index, item in _fetch_group(listed, group, config):
                if isinstance(item, InputError):
                    errors[index] = error_value("fetch", item)
                else:
                    data[index] = item
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


def _pages(source: str, suffixes: Sequence[str]) -> Iterator[pa.Table]:
    """Pages of `storage.LISTING` of one source."""
    if "://" in source and _GLOB.search(source.split("/")[2]):
        raise RequestError(f"source {source!r}: a glob must name its bucket")
    try:
        if _GLOB.search(source) and not storage.exists(source):
            yield from _matching_glob(storage.canonical(source))
        elif storage.is_folder(source):
            for page in storage.walk(source):
                yield _with_suffix(page, suffixes)
        elif not storage.exists(source):
            raise RequestError(f"source {source!r}: no such file or folder")
        elif (listed := _manifest(source)) is not None:
            yield from listed
        else:
            yield _listing([storage.stat(source)])
    except PermissionError as reason:
        raise RequestError(f"source {source!r}: not allowed to read it") from reason
    except OSError as reason:
        raise RequestError(f"source {source!r}: the store failed to list it ({type(reason).__name__})") from reason
    except InputError as reason:  # while a manifest was read
        raise RequestError(f"source {source!r}: the store failed to read it ({reason.code})") from reason


def _matching_glob(pattern: str) -> Iterator[pa.Table]:
    scheme, separator, path = pattern.partition("://")
    path = path if separator else pattern
    literal = path[: cast("re.Match[str]", _GLOB.search(path)).start()]
    folder, _, begins = literal.rpartition("/")
    root = f"{scheme}://{folder}" if separator else folder or "/"
    try:
        expression = re.compile(_glob_expression(path))
    except re.error as reason:
        raise RequestError(f"source {pattern!r}: not a glob ({reason})") from reason
    if not storage.is_folder(root):
        raise RequestError(f"source {pattern!r}: no such folder as {root!r}")
    found = False
    strip = len(scheme) + 3 if separator else 0
    for page in storage.walk(root, begins):
        marks = pc.call_function(
            "and",
            [
                pc.call_function("ends_with", [page["uri"]], pc.MatchSubstringOptions("/")),
                pc.call_function("equal", [page["size"], pa.scalar(0)]),
            ],
        )
        page = page.filter(pc.call_function("invert", [marks]))  # of folders, that other tools make
        keep = [bool(expression.fullmatch(uri[strip:])) for uri in page["uri"].to_pylist()]
        if any(keep):
            found = True
            yield page.filter(pa.array(keep))
    if not found:
        raise RequestError(f"source {pattern!r}: nothing matches")


def _glob_expression(pattern: str) -> str:
    """A regular expression for a glob: ``**/`` any folders, ``**`` anything, ``*`` and ``?`` no slash, ``[...]``.

    fsspec's own lets ``[!x]`` match a slash, ``*/`` no empty name, as object stores have them, and ``[z-a]`` nothing.
    """
    pieces, position = [], 0
    for match in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]", pattern):
        pieces.append(re.escape(pattern[position : match.start()]))
        token = match[0]
        fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        pieces.append(fixed.get(token) or _glob_set(token[1:-1]))
        position = match.end()
    return "(?s)" + "".join(pieces) + re.escape(pattern[position:])


def _glob_set(inside: str) -> str:
    """``[...]`` of a glob as a regular expression; like ``*`` and ``?`` it does not match a slash."""
    negated = inside.startswith("!")
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[negated:])
    return f"(?!/)[{'^' if negated else ''}{escaped}]"


def _with_suffix(page: pa.Table, suffixes: Sequence[str]) -> pa.Table:
    """Objects whose name ends in a suffix, perhaps before a compression's; and those that could not be looked at."""
    endings = "|".join(re.escape(suffix) for suffix in suffixes)
    pattern = rf"(?:{endings})(?:{'|'.join(re.escape(item) for item in COMPRESSIONS)})?\z"
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    matches = pc.call_function("match_substring_regex", [page["uri"]], options)
    return page.filter(pc.call_function("or", [matches, pc.call_function("equal", [page["etag"], pa.scalar("")])]))


def _expanded(pages: Iterable[pa.Table], suffixes: Sequence[str]) -> Iterator[pa.Table]:
    """One row for each object, or for each record or file in it where the object is a container."""

    def containers() -> Iterator[pa.Table | dict[str, Any]]:
        for page in pages:
            kinds = np.array([kind_of(uri) is not None for uri in page["uri"].to_pylist()], bool)
            kinds &= page["etag"].to_numpy() != ""  # without one, fetching says what is wrong
            if not kinds.any():
                yield page
                continue
            for start, end in _stretches(kinds):
                if kinds[start]:
                    yield from page.slice(start, end - start).to_pylist()
                else:
                    yield page.slice(start, end - start)

    def expand(item: pa.Table | dict[str, Any]) -> Iterator[pa.Table]:
        return iter([_objects(item)]) if isinstance(item, pa.Table) else members(item, suffixes)

    def begin(item: pa.Table | dict[str, Any]) -> tuple[pa.Table | None, Iterator[pa.Table]]:
        results = expand(item)
        return next(results, None), results  # only the first page is made ahead, so that memory stays bounded

    for first, rest in ordered(begin, containers(), _LIST_THREADS):
        if first is not None:
            yield first
            yield from rest


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of runs of equal flags."""
    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return list(itertools.pairwise(edges))


def _objects(page: pa.Table) -> pa.Table:
    count = page.num_rows
    columns: dict[str, Any] = {name: page[name] for name in LISTING.names}
    columns["format"] = pa.array(["object"] * count)
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in ENTRIES], schema=ENTRIES)


def _manifest(uri: str) -> Iterator[pa.Table] | None:
    """Pages of what a manifest names, or None where the object is none."""
    name = uri.lower()
    try:
        if name.endswith(".csv"):
            with storage.open_file(uri) as file:
                table = pyarrow.csv.read_csv(file)
            if "uri" not in table.column_names:
                raise RequestError(f"manifest {uri!r} must have a column 'uri', got {', '.join(table.column_names)}")
            return _named(uri, iter([table]))
        if name.endswith(".parquet"):
            with storage.open_file(uri) as file:
                names = pq.ParquetFile(file).schema_arrow.names
            if "uri" not in names or "text" in names or any(column in names for column in BYTES_COLUMNS):
                return None
            return _named(uri, _parquet_batches(uri, [item for item in ("uri", "etag", "size") if item in names]))
        if name.endswith(".jsonl"):
            with storage.open_file(uri) as file:
                first = _record(file.readline())
            if not isinstance(first, dict) or "uri" not in first or "text" in first:
                return None
            return _named(uri, _json_batches(uri))
    except (pa.ArrowException, ValueError) as reason:
        if isinstance(reason, RequestError):
            raise
        if name.endswith(".csv"):
            raise RequestError(f"manifest {uri!r} cannot be read") from reason
    return None  # or a broken container of documents: it gets its row


def _record(line: bytes) -> Any:
    try:
        return json.loads(line or b"null")
    except ValueError:
        return None


def _parquet_batches(uri: str, columns: list[str]) -> Iterator[pa.Table]:
    with storage.open_file(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches(CHUNK_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _json_batches(uri: str) -> Iterator[pa.Table]:
    held: list[dict[str, Any]] = []
    with storage.open_file(uri) as file:
        for line in file:
            if line.strip():
                record = _record(line)
                held.append(record if isinstance(record, dict) else {})
            if len(held) == CHUNK_ROWS:
                yield _json_table(held)
                held = []
    yield _json_table(held)


def _json_table(records: list[dict[str, Any]]) -> pa.Table:
    has_version = bool(records) and all(isinstance(item.get("etag"), str) and item.get("size") for item in records)
    names = ("uri", "etag", "size") if has_version else ("uri",)
    return pa.table({name: [item.get(name) for item in records] for name in names})


def _named(manifest: str, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Pages of the objects that a manifest names; each is looked at unless the manifest says its tag and size."""
    wrong = f"manifest {manifest!r}: every 'uri' must be a string that is not empty"
    try:
        for batch in batches:
            uris = batch["uri"].to_pylist()
            if any(not isinstance(uri, str) or not uri for uri in uris):
                raise RequestError(wrong)
            if {"etag", "size"} <= set(batch.column_names) and not batch["etag"].null_count:
                tags = zip(uris, batch["size"].to_pylist(), batch["etag"].to_pylist(), strict=True)
                yield _listing([storage.Object(storage.canonical(uri), size or 0, str(tag)) for uri, size, tag in tags])
                continue
            with ThreadPoolExecutor(_STAT_THREADS, "stat") as pool:
                yield _listing(list(pool.map(_look, uris)))
    except pa.ArrowException as reason:
        raise RequestError(f"manifest {manifest!r} cannot be read") from reason


def _look(uri: str) -> storage.Object:
    try:
        return storage.stat(uri)
    except (OSError, ValueError):  # RequestError; a path with a zero byte
        return storage.Object(storage.canonical(uri), 0, "")  # fetching it will say what is wrong


def _listing(objects: list[storage.Object]) -> pa.Table:
    return pa.table({name: [getattr(item, name) for item in objects] for name in LISTING.names}, schema=LISTING)


def _read_together(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two entries are in one container that is read in one go."""
    both = one["uri"] == other["uri"] and one["member"] is not None and other["member"] is not None
    return both and not is_plain_tar(one["uri"])


def _fetch_group(
    listed: list[dict[str, Any]], group: list[int], config: FetchConfig
) -> Iterator[tuple[int, bytes | InputError]]:
    first = listed[group[0]]
    group = [index for index in group if listed[index]["error"] is None]
    if not group:
        return
    group.sort(key=lambda index: listed[index]["start"] or 0)  # compressed files are read forward only
    if first["member"] is None:
        yield group[0], _fetch_object(first["uri"], first["etag"], config)
        return
    if is_plain_tar(first["uri"]):
        yield (
            group[0],
            storage.fetch(
                first["uri"],
                first["etag"],
                config.max_bytes,
                first["start"],
                first["end"],
                deadline_s=config.deadline_s,
            ),
        )
        return
    yield from read_members(listed, group, config.max_bytes, config.deadline_s)


def _fetch_object(uri: str, etag: str, config: FetchConfig) -> bytes:
    data = storage.fetch(uri, etag or None, config.max_bytes, deadline_s=config.deadline_s)
    if not uri.endswith(COMPRESSIONS):
        return data
    try:
        with decompress(uri, io.BytesIO(data)) as file:
            plain = file.read(config.max_bytes + 1)
    except (OSError, EOFError, zstandard.ZstdError) as reason:
        raise InputError("bad_archive", "the compressed data are broken") from reason
    if len(plain) > config.max_bytes:
        raise InputError("too_large", f"more than the limit of {config.max_bytes} bytes after decompression")
    return plain
