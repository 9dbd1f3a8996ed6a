"""Source: what is to be read. A folder, a file or a manifest becomes entries; entries become bytes.

An *entry* is one input: ``(uri, member)`` with the tag and size that were listed. ``member`` is null for a whole
object, else the number (from 1) of the line in a JSONL file or of the row in a Parquet file. Entries travel as Arrow
tables with the columns of `ENTRIES`.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import zstandard

from pipeline import storage
from pipeline.config import check
from pipeline.errors import InputError, RequestError
from pipeline.task import ERROR_TYPE, error_value

ENTRIES = pa.schema(
    [
        ("uri", pa.string()),
        ("member", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("format", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("error", ERROR_TYPE),
    ]
)
COMPRESSIONS = (".gz", ".zst")
CHUNK_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    max_bytes: int = 256 << 20
    """Largest input, in bytes, after decompression; a larger one fails as too_large."""
    threads: int = 8
    """Downloads at the same time in one worker."""

    def __post_init__(self) -> None:
        check(self, "max_bytes", self.max_bytes >= 1, "be at least 1")
        check(self, "threads", self.threads >= 1, "be at least 1")


def entries(uri: str, suffixes: Sequence[str]) -> Iterator[pa.Table]:
    """All inputs of a source, in a fixed order, as tables of `ENTRIES` with at most `CHUNK_ROWS` rows.

    ``uri``: a folder (every object below it whose name ends in one of ``suffixes``), a single object, or a manifest: a
    Parquet, CSV or JSONL file with a ``uri`` column. `RequestError` when there is nothing there.
    """
    try:
        folder = storage.is_folder(uri)
        if not folder and not storage.exists(uri):
            raise RequestError(f"source {uri!r}: no such file or folder")
    except PermissionError as reason:
        raise RequestError(f"source {uri!r}: not allowed to read it") from reason
    if folder:
        rows = _expand(_matching(storage.walk(uri), suffixes))
    elif (listed := _manifest_uris(uri)) is not None:
        rows = _expand(_stat_all(listed))
    else:
        rows = _expand([storage.stat(uri)])
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS:
            yield pa.Table.from_pylist(chunk, schema=ENTRIES)
            chunk = []
    if chunk:
        yield pa.Table.from_pylist(chunk, schema=ENTRIES)


def fetch(rows: pa.Table, config: FetchConfig) -> tuple[list[bytes | None], pa.Array]:
    """The bytes of each entry (None where it failed) and the ``error`` column. Never raises for one bad input."""
    listed = cast("list[dict[str, Any]]", rows.select(ENTRIES.names).to_pylist())
    groups: list[list[int]] = []
    for index, row in enumerate(listed):
        same_container = index and row["member"] is not None and row["uri"] == listed[index - 1]["uri"]
        if same_container and listed[index - 1]["member"] is not None:
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
            failure = reason if isinstance(reason, InputError) else storage.input_error(reason)
            for index in group:
                if data[index] is None and errors[index] is None:
                    errors[index] = error_value("fetch", failure)

    if config.threads == 1 or len(groups) == 1:
        for group in groups:
            work(group)
    else:
        with ThreadPoolExecutor(config.threads, "fetch") as pool:
            list(pool.map(work, groups))
    return data, pa.array(errors, ERROR_TYPE)


def _fetch_group(
    listed: list[dict[str, Any]], group: list[int], config: FetchConfig
) -> Iterator[tuple[int, bytes | InputError]]:
    first = listed[group[0]]
    group = [index for index in group if listed[index]["error"] is None]
    if not group:
        return
    group.sort(key=lambda index: listed[index]["start"] or 0)  # compressed files are read forward only
    if first["member"] is None:
        yield group[0], _fetch_object(first["uri"], first["etag"], config.max_bytes)
        return
    if storage.stat(first["uri"]).etag != first["etag"]:  # offsets of the old file would cut the new one anywhere
        raise InputError("changed", "the file changed after it was listed")
    if _is_parquet(first["uri"]):
        yield from _fetch_parquet_rows(listed, group)
        return
    with _open(first["uri"]) as file:
        position = 0
        for index in group:
            start, end = listed[index]["start"], listed[index]["end"]
            if end - start > config.max_bytes:
                limit = f"{end - start} bytes, more than the limit of {config.max_bytes}"
                yield index, InputError("too_large", limit)
                continue
            if start != position:
                file.seek(start)
            line = file.read(end - start)
            position = start + len(line)
            if len(line) < end - start:
                yield index, InputError("changed", "the file is shorter than when it was listed")
                continue
            yield index, line


def _fetch_object(uri: str, etag: str, max_bytes: int) -> bytes:
    data = storage.fetch(uri, etag or None, max_bytes)
    if not uri.endswith(COMPRESSIONS):
        return data
    try:
        with _decompress(uri, io.BytesIO(data)) as file:
            plain = file.read(max_bytes + 1)
    except (OSError, EOFError, zstandard.ZstdError) as reason:
        raise InputError("bad_archive", "the compressed data are broken") from reason
    if len(plain) > max_bytes:
        raise InputError("too_large", f"more than the limit of {max_bytes} bytes after decompression")
    return plain


def _fetch_parquet_rows(listed: list[dict[str, Any]], group: list[int]) -> Iterator[tuple[int, bytes]]:
    fs, path = storage.filesystem(listed[group[0]]["uri"])
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        columns = [name for name in ("text", "doc_id", "paragraphs") if name in parquet.schema_arrow.names]
        wanted = {listed[index]["start"]: index for index in group}
        row = 0
        for number in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(number).num_rows
            if any(row <= start < row + rows for start in wanted):
                records = parquet.read_row_group(number, columns=columns).to_pylist()
                for offset, record in enumerate(records):
                    if row + offset in wanted:
                        yield wanted[row + offset], json.dumps(_plain_record(record), ensure_ascii=False).encode()
            row += rows


def _plain_record(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}


def _matching(objects: Iterable[storage.Object], suffixes: Sequence[str]) -> Iterator[storage.Object]:
    for item in objects:
        name = item.uri.rsplit("/", 1)[-1].lower()
        for compression in COMPRESSIONS:
            name = name.removesuffix(compression)
        if not item.etag or name.endswith(tuple(suffixes)):  # without a tag: could not be looked at, so it gets a row
            yield item


def _expand(objects: Iterable[storage.Object]) -> Iterator[dict[str, Any]]:
    """One row for each object, or for each record where the object is a container."""
    for item in objects:
        row = {"uri": item.uri, "member": None, "etag": item.etag, "size": item.size, "format": "object"}
        name = item.uri.lower()
        if not item.etag:  # could not be looked at; fetching it will say why
            yield row
        elif _is_parquet(name):
            yield from _parquet_rows(row)
        elif name.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl"):
            yield from _lines(row)
        else:
            yield row


def _lines(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        with _open(row["uri"]) as file:
            start = 0
            for number, line in enumerate(file, 1):
                end = start + len(line)
                if line.strip():
                    yield row | {
                        "member": str(number),
                        "size": len(line),
                        "format": "json",
                        "start": start,
                        "end": end,
                    }
                start = end
    except (OSError, EOFError, zstandard.ZstdError) as reason:
        failure = _container_error(row["uri"], reason)
        yield row | {"format": "json", "error": error_value("list", failure)}


def _parquet_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    fs, path = storage.filesystem(row["uri"])
    try:
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            if "text" not in parquet.schema_arrow.names:
                failure = InputError("bad_archive", "the Parquet file has no column 'text'")
                yield row | {"error": error_value("list", failure)}
                return
            rows = parquet.metadata.num_rows
            mean = row["size"] // max(1, rows)
            for number in range(rows):
                yield row | {"member": str(number + 1), "size": mean, "format": "json", "start": number}
    except (OSError, pa.ArrowException) as reason:
        failure = _container_error(row["uri"], reason)
        yield row | {"error": error_value("list", failure)}


def _container_error(uri: str, reason: BaseException) -> InputError:
    known = storage.input_error(reason)
    if known.code != "unreadable" or not (uri.endswith(COMPRESSIONS) or _is_parquet(uri)):
        return known
    return InputError("bad_archive", "the file that holds the records is broken")


def _manifest_uris(uri: str) -> list[str] | None:
    """The ``uri`` column when the object is a manifest, else None."""
    name = uri.lower()
    manifest = name.endswith(".csv")  # other files may be documents; these are known by their column
    fs, path = storage.filesystem(uri)
    try:
        if _is_parquet(name):
            with fs.open(path, "rb") as file:
                parquet = pq.ParquetFile(file)
                if "uri" not in parquet.schema_arrow.names or "text" in parquet.schema_arrow.names:
                    return None
                column = parquet.read(columns=["uri"])["uri"].to_pylist()
        elif name.endswith(".csv"):
            with fs.open(path, "rb") as file:
                table = pyarrow.csv.read_csv(file)
            if "uri" not in table.column_names:
                raise RequestError(f"manifest {uri!r} must have a column 'uri', got {', '.join(table.column_names)}")
            column = table["uri"].to_pylist()
        elif name.endswith(".jsonl"):
            with fs.open(path, "rb") as file:
                first = json.loads(file.readline() or b"null")
                if not isinstance(first, dict) or "uri" not in first or "text" in first:
                    return None
                manifest = True
                column = [first["uri"], *(json.loads(line).get("uri") for line in file if line.strip())]
        else:
            return None
    except (pa.ArrowException, OSError, ValueError, AttributeError) as reason:
        if isinstance(reason, RequestError):
            raise
        if manifest:
            raise RequestError(f"manifest {uri!r} cannot be read") from reason
        return None  # a broken container of documents: it gets its row
    if any(not isinstance(item, str) or not item for item in column):
        raise RequestError(f"manifest {uri!r}: every 'uri' must be a string that is not empty")
    return column


def _stat_all(uris: Sequence[str]) -> Iterator[storage.Object]:
    def look(uri: str) -> storage.Object:
        try:
            return storage.stat(uri)
        except (OSError, RequestError):
            return storage.Object(storage.canonical(uri), 0, "")

    with ThreadPoolExecutor(16, "stat") as pool:
        seen: set[str] = set()
        for item in pool.map(look, uris):
            if item.uri not in seen:  # a manifest may name an input twice; it is one input
                seen.add(item.uri)
                yield item


def _open(uri: str) -> BinaryIO:
    """A container's plain bytes as a file that can seek forward."""
    fs, path = storage.filesystem(uri)
    return _decompress(uri, fs.open(path, "rb"))


def _decompress(uri: str, file: BinaryIO) -> BinaryIO:
    if uri.endswith(".gz"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if uri.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return cast("BinaryIO", io.BufferedReader(_Forward(reader)))  # type: ignore[arg-type]
    return file


class _Forward(io.RawIOBase):
    """A decompressing reader as a raw stream; zstandard's own cannot be buffered or iterated by line."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise OSError("only forward")
        while self._position < offset:
            step = len(self._reader.read(min(1 << 20, offset - self._position)))
            if not step:
                break
            self._position += step
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self._reader.readinto(buffer)
        self._position += count
        return count


def _is_parquet(uri: str) -> bool:
    return uri.lower().endswith(".parquet")
