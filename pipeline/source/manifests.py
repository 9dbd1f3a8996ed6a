"""Manifests: Parquet, CSV or JSONL files that list the inputs of a run."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.csv

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.rows import InputKind
from pipeline.source.containers import CHUNK_ROWS
from pipeline.source.records import OWN_COLUMNS, inputs_column
from pipeline.source.texts import decoded, encoding_of
from pipeline.storage import LISTING
from pipeline.storage.columnar import ParquetReader
from pipeline.storage.names import without_surrogates

#: Some columns of a manifest, as lists, since names in it may be no text that Arrow can hold.
_Batch = dict[str, list[Any]]

_STAT_THREADS = 32
_MAX_LINE_BYTES = 1 << 20


def manifest_pages(uri: str, kind: InputKind) -> Iterator[pa.Table] | None:
    """Pages of the objects that a manifest lists. None if the object is not a manifest."""
    name = uri.lower()
    try:
        if name.endswith(".csv"):
            table = pyarrow.csv.read_csv(io.BytesIO(_csv_bytes(uri)))
            if "uri" not in table.column_names:
                raise RequestError(f"manifest {uri!r} must have a column 'uri', got {', '.join(table.column_names)}")
            return _named(uri, iter([_csv_batch(table)]))
        if name.endswith(".parquet"):
            with storage.open_file(uri) as file:
                schema = ParquetReader(file).schema
            names = schema.names
            if "uri" not in names or inputs_column(schema, kind) is not None:
                return None
            # Inputs may have changed since a table of results was made, and it names a container once for each row.
            columns = ("uri",) if set(names) >= OWN_COLUMNS else ("uri", "etag", "size")
            batches = _parquet_batches(uri, [item for item in columns if item in names])
            return _named(uri, _distinct(batches) if set(names) >= OWN_COLUMNS else batches)
        if name.endswith(".jsonl"):
            with storage.open_file(uri) as file:
                head = file.read(_MAX_LINE_BYTES)
            encoding = encoding_of(head)
            first = _record(_first_line(head.decode(encoding, "ignore")).encode())
            if not isinstance(first, dict) or "uri" not in first or set(kind.record[:1]) & set(first):
                return None
            if encoding != "utf-8":
                raise RequestError(f"manifest {uri!r} must be UTF-8, it is {encoding.upper()}")
            return _named(uri, _json_batches(uri))
    except (RequestError, storage.StoreError):
        raise
    except (InputError, pa.ArrowException, ValueError) as reason:
        if name.endswith(".csv"):
            raise RequestError(f"manifest {uri!r} cannot be read") from reason
    return None  # if it is a broken container instead, listing its members makes an error row


def is_of_results(uri: str) -> bool:
    """Whether an object is a Parquet file of a table of this project."""
    if not uri.lower().endswith(".parquet") or storage.is_folder(uri):
        return False
    try:
        with storage.open_file(uri) as file:
            return set(ParquetReader(file).schema.names) >= OWN_COLUMNS
    except (OSError, InputError, pa.ArrowException, ValueError):
        return False  # whatever is wrong with it is found when it is read


def _csv_bytes(uri: str) -> bytes:
    """A CSV file in UTF-8, if its byte order mark names another encoding. Names may be bytes that are no text."""
    data = storage.read(uri)
    return data if encoding_of(data) == "utf-8" else decoded(data, uri).encode()


def _first_line(text: str) -> str:
    return next((line for line in text.removeprefix("\ufeff").split("\n") if line.strip()), "")


def _record(line: bytes) -> Any:
    try:
        try:
            return json.loads(line.removeprefix(codecs.BOM_UTF8) or b"null")
        except UnicodeDecodeError:  # names as an old disk has them
            return json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None


def _csv_batch(table: pa.Table) -> _Batch:
    named = zip(table.column_names, table.columns, strict=True)
    return {name: column.to_pylist() for name, column in named if name in ("uri", "etag", "size")}


def _parquet_batches(uri: str, columns: list[str]) -> Iterator[_Batch]:
    with storage.open_file(uri) as file:
        for batch in ParquetReader(file).batches(columns, CHUNK_ROWS):
            yield batch.to_pydict()


def _distinct(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The URIs of all batches, each once."""
    seen: set[Any] = set()
    for batch in batches:
        new = dict.fromkeys(uri for uri in batch["uri"] if uri not in seen)
        seen.update(new)
        yield {"uri": list(new)}


def _json_batches(uri: str) -> Iterator[_Batch]:
    buffered: list[dict[str, Any]] = []
    with storage.open_file(uri) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise RequestError(f"manifest {uri!r}, line {number}: must have {_MAX_LINE_BYTES} bytes at most")
            if line.strip():
                record = _record(line)
                if not isinstance(record, dict):
                    rule = "must be a JSON object with a string 'uri'"
                    raise RequestError(f"manifest {uri!r}, line {number}: {rule}")
                buffered.append(record)
            if len(buffered) == CHUNK_ROWS:
                yield _json_batch(buffered)
                buffered = []
    yield _json_batch(buffered)


def _json_batch(records: list[dict[str, Any]]) -> _Batch:
    has_version = bool(records) and all(isinstance(item.get("etag"), str) and item.get("size") for item in records)
    names = ("uri", "etag", "size") if has_version else ("uri",)
    return {name: [item.get(name) for item in records] for name in names}


def _named(manifest: str, batches: Iterator[_Batch]) -> Iterator[pa.Table]:
    """Pages of the objects that a manifest lists. Their tags and sizes are looked up if the manifest has none."""
    wrong = f"manifest {manifest!r}: every 'uri' must be a string that is not empty"
    try:
        for batch in batches:
            uris = [_text(uri) for uri in batch["uri"]]
            if not all(uris):
                raise RequestError(wrong)
            if {"etag", "size"} <= set(batch) and None not in batch["etag"]:
                tags = zip(uris, batch["size"], batch["etag"], strict=True)
                yield listing_page(
                    [storage.Object(storage.canonical(uri), int(size or 0), _text(str(tag))) for uri, size, tag in tags]
                )
                continue
            with ThreadPoolExecutor(_STAT_THREADS, "stat") as pool:
                yield listing_page(list(pool.map(_look, uris)))
    except RequestError:
        raise
    except InputError as reason:
        raise RequestError(f"manifest {manifest!r} cannot be read: {reason.message}") from reason
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as reason:
        raise RequestError(f"manifest {manifest!r} cannot be read") from reason


def _text(value: Any) -> str:
    """A value of a manifest as text that a table can hold; empty if it is no text."""
    value = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return without_surrogates(value) if isinstance(value, str) else ""


def _look(uri: str) -> storage.Object:
    try:
        return storage.stat(uri)
    except (OSError, ValueError):  # RequestError; a path with a zero byte
        return storage.Object(storage.canonical(uri), 0, "")  # fetching it will report the error


def listing_page(objects: list[storage.Object]) -> pa.Table:
    return pa.table({name: [getattr(item, name) for item in objects] for name in LISTING.names}, schema=LISTING)
