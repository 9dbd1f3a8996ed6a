"""Manifests: Parquet, CSV or JSONL files that list the inputs of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.containers import CHUNK_ROWS
from pipeline.source.texts import encoding_of, read_text
from pipeline.storage import LISTING

_STAT_THREADS = 32
_HEAD_BYTES = 1 << 20  # enough for the first line of a manifest


def manifest_pages(uri: str, kind: InputKind) -> Iterator[pa.Table] | None:
    """Pages of the objects that a manifest lists. None if the object is not a manifest."""
    name = uri.lower()
    try:
        if name.endswith(".csv"):
            table = pyarrow.csv.read_csv(io.BytesIO(read_text(uri).encode()))
            if "uri" not in table.column_names:
                raise RequestError(f"manifest {uri!r} must have a column 'uri', got {', '.join(table.column_names)}")
            return _named(uri, iter([table]))
        if name.endswith(".parquet"):
            with storage.open_file(uri) as file:
                names = pq.ParquetFile(file).schema_arrow.names
            if "uri" not in names or {*kind.record[:1], *kind.bytes_columns} & set(names):
                return None
            return _named(uri, _parquet_batches(uri, [item for item in ("uri", "etag", "size") if item in names]))
        if name.endswith(".jsonl"):
            with storage.open_file(uri) as file:
                head = file.read(_HEAD_BYTES)
            encoding = encoding_of(head)
            first = _record(_first_line(head.decode(encoding, "ignore")).encode())
            if not isinstance(first, dict) or "uri" not in first or set(kind.record[:1]) & set(first):
                return None
            if encoding != "utf-8":
                raise RequestError(f"manifest {uri!r} must be UTF-8, it is {encoding.upper()}")
            return _named(uri, _json_batches(uri))
    except (pa.ArrowException, ValueError) as reason:
        if isinstance(reason, RequestError):
            raise
        if name.endswith(".csv"):
            raise RequestError(f"manifest {uri!r} cannot be read") from reason
    return None  # if it is a broken container instead, listing its members makes an error row


def _first_line(text: str) -> str:
    return next((line for line in text.removeprefix("\ufeff").split("\n") if line.strip()), "")


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
    buffered: list[dict[str, Any]] = []
    with storage.open_file(uri) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                record = _record(line)
                if not isinstance(record, dict):
                    why = _not_utf8(line) or "must be a JSON object with a string 'uri'"
                    raise RequestError(f"manifest {uri!r}, line {number}: {why}")
                buffered.append(record)
            if len(buffered) == CHUNK_ROWS:
                yield _json_table(buffered)
                buffered = []
    yield _json_table(buffered)


def _not_utf8(line: bytes) -> str | None:
    try:
        line.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        return f"must be UTF-8, but byte {reason.start} of the line (0x{line[reason.start]:02x}) is not"
    return None


def _json_table(records: list[dict[str, Any]]) -> pa.Table:
    has_version = bool(records) and all(isinstance(item.get("etag"), str) and item.get("size") for item in records)
    names = ("uri", "etag", "size") if has_version else ("uri",)
    return pa.table({name: [item.get(name) for item in records] for name in names})


def _named(manifest: str, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Pages of the objects that a manifest lists. Their tags and sizes are looked up if the manifest has none."""
    wrong = f"manifest {manifest!r}: every 'uri' must be a string that is not empty"
    try:
        for batch in batches:
            uris = batch["uri"].to_pylist()
            if any(not isinstance(uri, str) or not uri for uri in uris):
                raise RequestError(wrong)
            if {"etag", "size"} <= set(batch.column_names) and not batch["etag"].null_count:
                tags = zip(uris, batch["size"].to_pylist(), batch["etag"].to_pylist(), strict=True)
                yield listing_page(
                    [storage.Object(storage.canonical(uri), size or 0, str(tag)) for uri, size, tag in tags]
                )
                continue
            with ThreadPoolExecutor(_STAT_THREADS, "stat") as pool:
                yield listing_page(list(pool.map(_look, uris)))
    except pa.ArrowException as reason:
        raise RequestError(f"manifest {manifest!r} cannot be read") from reason


def _look(uri: str) -> storage.Object:
    try:
        return storage.stat(uri)
    except (OSError, ValueError):  # RequestError; a path with a zero byte
        return storage.Object(storage.canonical(uri), 0, "")  # fetching it will report the error


def listing_page(objects: list[storage.Object]) -> pa.Table:
    return pa.table({name: [getattr(item, name) for item in objects] for name in LISTING.names}, schema=LISTING)
