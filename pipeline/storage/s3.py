"""The store of objects on S3 and on servers with the same protocol.

Most requests go through obstore. Compared with botocore, and with all our checks around it, it needs a fifth of the
processor time for a download and a twelfth for a listing (``benchmarks/downloads.py``). botocore finds credentials,
endpoint and region, so they come from the same places as for every AWS tool: environment, profile, role. Keys that
obstore cannot represent (control characters, empty or dot segments) and rare operations go through botocore.
"""

from __future__ import annotations

import functools
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast

import botocore.config
import botocore.exceptions
import botocore.session
import obstore
import pyarrow as pa
import pyarrow.compute as pc
from botocore import UNSIGNED
from obstore import exceptions as failures
from obstore.store import S3Store as FastStore

from pipeline.errors import RequestError
from pipeline.storage.listing import Listing
from pipeline.storage.store import LISTING, Object, RangeFile, Read, Store, StoreError, with_retries

#: Environment variables of this project, besides the usual AWS ones.
ADDRESSING, ANONYMOUS = "PARQUETRY_S3_ADDRESSING", "PARQUETRY_S3_ANONYMOUS"
#: Environment variables of AWS that are credentials. They belong together, and the first two are always there.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_PATIENCE_S = 120.0  # deadline of a request, except for reading inputs
_TIMEOUTS_S = (2, 5, 10, 30)
_RANGE_BYTES = 32 << 20  # larger objects are read in ranges of this size, so that a failure repeats only one of them
_BUFFER_BYTES = 1 << 20
_STATUS = re.compile(r"status code: (\d{3})|HTTP status (?:client|server) error \((\d{3})")

#: Data, tag and size of an object. The data are None if the object is too large for one request.
_Answer = tuple[bytes | None, str, int]


class S3(Store):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[int, Any] = {}
        self._credentials: Any = None
        self._fast: dict[tuple[str, int], FastStore] = {}

    def stat(self, uri: str) -> Object:
        bucket, key = split(uri)
        if not key:
            raise FileNotFoundError("a bucket is no object")

        def attempt(timeout_s: float) -> Object:
            if _spellable(key):
                with _Translated():
                    found = obstore.head(self._fast_store(bucket, timeout_s), key)
                return _object(uri, found["size"], found["e_tag"], found["last_modified"])
            with _Translated():
                answer = self._client(timeout_s).head_object(Bucket=bucket, Key=key)
            return _object(uri, answer["ContentLength"], answer["ETag"], answer["LastModified"])

        return _patiently(attempt)

    def is_folder(self, uri: str) -> bool:
        bucket, key = split(uri)
        prefix = f"{key}/" if key else ""
        if not key:
            _patiently(lambda _: self._call("head_bucket", Bucket=bucket))
            return True
        return self._has_keys(bucket, prefix)

    def names(self, uri: str) -> list[str]:
        bucket, key = split(uri)
        prefix = f"{key}/" if key else ""
        names: set[str] = set()
        token: dict[str, str] = {}
        while True:
            page = _patiently(
                lambda _, token=token: self._call(
                    "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **token
                )
            )
            names.update(item["Key"][len(prefix) :] for item in page.get("Contents", ()))
            names.update(item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", ()))
            if not page.get("IsTruncated"):
                return sorted(names - {""})
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, uri: str) -> bytes:
        try:
            return self._pieces(uri, Read(), lambda attempt: with_retries(attempt, _PATIENCE_S))
        except StoreError as reason:
            raise _os_error(reason) from reason

    def get(self, uri: str, read: Read, timeout_s: float) -> bytes:
        return self._pieces(uri, read, lambda attempt: attempt(timeout_s))

    def fetch(self, uri: str, read: Read) -> bytes:
        """All ranges of a large object share one deadline. If a range fails, only this range is requested again."""
        until = time.monotonic() + read.deadline_s
        return self._pieces(uri, read, lambda attempt: with_retries(attempt, until - time.monotonic()))

    def _pieces(self, uri: str, read: Read, run: Callable[[Callable[[float], _Answer]], _Answer]) -> bytes:
        """Read an object by one or more requests. ``run`` calls the attempts of one request, with retries if any."""
        bucket, key = split(uri)
        first, last = read.start or 0, read.end
        if last is not None:
            read.check_size(last - first)
            if last <= first:
                return b""  # HTTP cannot request an empty range
        if last is None or last - first <= _RANGE_BYTES:
            data, etag, size = run(functools.partial(self._request, bucket, key, read))
            if data is not None:
                return data
            read.check_size(size)
            last, read = size, replace(read, etag=etag)  # the other ranges must be of the same version
        pieces: list[bytes] = []
        for begin in range(first, last, _RANGE_BYTES):
            stop = min(begin + _RANGE_BYTES, last)
            data, etag, _ = run(functools.partial(self._request, bucket, key, read.part(begin, stop)))
            assert data is not None
            read = replace(read, etag=etag)
            pieces.append(data)
            if len(data) < stop - begin:
                break  # the requested range ends after the object's end
        return b"".join(pieces)

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split(uri)

        def attempt(timeout_s: float) -> None:
            with _Translated():
                if _spellable(key):
                    obstore.put(self._fast_store(bucket, timeout_s), key, data)
                else:
                    self._client(timeout_s).put_object(Bucket=bucket, Key=key, Body=data)

        _patiently(attempt)

    def create(self, uri: str, data: bytes) -> bool:
        bucket, key = split(uri)
        uncertain = False

        def attempt(_: float) -> bool:
            nonlocal uncertain
            try:
                self._call("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except _Exists:
                # An earlier attempt may have written the object although its answer was lost.
                return uncertain and self.read(uri) == data
            except StoreError:
                uncertain = True
                raise
            return True

        return _patiently(attempt)

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        _patiently(lambda _: self._call("delete_object", Bucket=bucket, Key=key))

    def walk(self, uri: str, begins: str) -> Iterator[pa.Table]:
        """Pages in no particular order, since several ranges of keys are listed at the same time."""
        bucket, key = split(uri)
        prefix = f"{key}/" if key else ""
        exact = not prefix and self._has_keys(bucket, "/")  # obstore drops a slash at the start of a key
        listing = Listing(
            prefix,
            begins,
            lambda after: self.pages_after(bucket, prefix, after, exact),
            lambda after: self.first_after(bucket, prefix, after),
        )
        return (_named(bucket, page) for page in listing.pages())

    def open(self, uri: str, read: Read) -> BinaryIO:
        file = RangeFile(self, uri, read, _RANGE_BYTES)
        return cast("BinaryIO", io.BufferedReader(file, _BUFFER_BYTES))

    def endpoint(self) -> str:
        """The URL to which requests are sent."""
        return str(self._client().meta.endpoint_url)

    def region(self) -> str:
        return str(self._client().meta.region_name)

    def pages_after(self, bucket: str, prefix: str, after: str, exact: bool) -> Iterator[pa.Table]:
        """The keys with a prefix after the key ``after``, in order. Columns: ``key``, ``etag``, ``size``, ``mtime``.

        ``exact``: list with botocore, since obstore drops slashes at the start of a key.
        """
        while True:
            if not exact and _spellable(prefix.rstrip("/") or "x") and _spellable(after or "x"):
                stream = obstore.list(
                    self._fast_store(bucket, _TIMEOUTS_S[-1]),
                    prefix or None,
                    offset=after or None,
                    chunk_size=1000,
                    return_arrow=True,
                )
                try:
                    for batch in stream:
                        page = _fast_page(pa.record_batch(batch))
                        if pc.call_function("any", [pc.call_function("equal", [page["size"], pa.scalar(0)])]).as_py():
                            break  # obstore drops keys that end with a slash, such as markers of folders
                        if page.num_rows:
                            after = page["key"][-1].as_py()
                            yield page
                    else:
                        return
                except (failures.InvalidPathError, ValueError):
                    pass  # the next page has a key that obstore cannot represent
                except Exception as reason:
                    translated = _store_error(reason)
                    if not translated.transient:
                        raise _os_error(translated) from reason
            page, more = self._exact_page(bucket, prefix, after)
            if page.num_rows:
                after = page["key"][-1].as_py()
                # The marker of the folder itself is not below the folder.
                yield page.filter(pc.call_function("not_equal", [page["key"], pa.scalar(prefix)]))
            if not more:
                return

    def first_after(self, bucket: str, prefix: str, after: str) -> pa.Table:
        """The first key after ``after``, as a table of one row, or of none."""
        return self._exact_page(bucket, prefix, after, limit=1)[0]

    def _exact_page(self, bucket: str, prefix: str, after: str, limit: int = 1000) -> tuple[pa.Table, bool]:
        start = {"StartAfter": after} if after else {}
        answer = _patiently(
            lambda _: self._call("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=limit, **start)
        )
        found = answer.get("Contents", ())
        page = pa.table(
            {
                "key": pa.array([item["Key"] for item in found], pa.string()),
                "etag": pa.array([item["ETag"].strip('"') for item in found], pa.string()),
                "size": pa.array([item["Size"] for item in found], pa.int64()),
                "mtime": pa.array([item["LastModified"] for item in found], LISTING.field("mtime").type),
            }
        )
        return page, bool(answer.get("IsTruncated"))

    def _has_keys(self, bucket: str, prefix: str) -> bool:
        answer = _patiently(lambda _: self._call("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1))
        return bool(answer["KeyCount"])

    def _request(self, bucket: str, key: str, read: Read, timeout_s: float) -> _Answer:
        """Send one request. `StoreError` ``changed`` if the object's tag is not that of ``read``."""
        with _Translated():
            data, etag, size = self._answer(bucket, key, read, timeout_s)
        read.check_tag(etag)
        return data, etag, size

    def _answer(self, bucket: str, key: str, read: Read, timeout_s: float) -> _Answer:
        start, end, at_once = read.start or 0, read.end, min(_RANGE_BYTES, read.max_bytes)
        if _spellable(key):
            options: Any = {"range": (start, end)} if end is not None else {"range": {"offset": start}}
            answer = obstore.get(self._fast_store(bucket, timeout_s), key, options=None if read.is_whole else options)
            size, etag = answer.meta["size"], (answer.meta["e_tag"] or "").strip('"')
            if read.is_whole and size > at_once:
                return None, etag, size
            data = bytes(answer.bytes())
        else:
            asked = {} if read.is_whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
            reply = self._client(timeout_s).get_object(Bucket=bucket, Key=key, **asked)
            size, etag = reply["ContentLength"], reply["ETag"].strip('"')
            if read.is_whole and size > at_once:
                reply["Body"].close()
                return None, etag, size
            data = reply["Body"].read()
        if read.is_whole and len(data) < size:
            raise StoreError("timeout", "the store sent less than the whole object", transient=True)
        return data, etag, size

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Call an operation of botocore once."""
        with _Translated():
            return getattr(self._client(), operation)(**arguments)

    def _client(self, timeout_s: float = _TIMEOUTS_S[-1]) -> Any:
        timeout = _timeout(timeout_s)
        with self._lock:  # botocore's clients may be used by several threads, but not made by several
            if timeout not in self._clients:
                session = botocore.session.Session()
                style = {"auto": None, "path": "path", "virtual": "virtual"}[os.environ.get(ADDRESSING) or "auto"]
                config = botocore.config.Config(
                    connect_timeout=min(5, timeout),
                    read_timeout=timeout,
                    retries={"total_max_attempts": 1},  # `with_retries` retries instead
                    max_pool_connections=64,
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": style} if style else None,
                    **({"signature_version": UNSIGNED} if _anonymous() else {}),
                )
                try:
                    client = session.create_client(
                        "s3", config=config, region_name=session.get_config_variable("region") or "us-east-1"
                    )
                except botocore.exceptions.BotoCoreError as reason:
                    raise RequestError(f"S3 settings: {_without_secrets(reason)}") from reason
                self._credentials = None if _anonymous() else session.get_credentials()
                self._clients[timeout] = client
            return self._clients[timeout]

    def _fast_store(self, bucket: str, timeout_s: float) -> FastStore:
        timeout = _timeout(timeout_s)
        found = self._fast.get((bucket, timeout))
        if found is None:
            found = self._fast[bucket, timeout] = self._make_fast(bucket, timeout)
        return found

    def _make_fast(self, bucket: str, timeout: int) -> FastStore:
        endpoint = self.endpoint()
        own = any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
        own = own or ".amazonaws.com" not in endpoint
        style = os.environ.get(ADDRESSING) or "auto"
        virtual = style == "virtual" or (style == "auto" and not own and "." not in bucket)
        if virtual:
            scheme, host = endpoint.split("://", 1)
            endpoint = f"{scheme}://{bucket}.{host}"
        access: dict[str, Any] = {"skip_signature": True}
        if not _anonymous():
            if self._credentials is None:
                raise PermissionError("no credentials for S3 in the environment, a profile or a role")
            access = {"credential_provider": self._provide}
        return FastStore(
            bucket,
            endpoint=endpoint,
            region=self.region(),
            virtual_hosted_style_request=virtual,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=min(5, timeout)),
            },
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=timeout)},
            **access,
        )

    def _provide(self) -> Any:
        """Credentials for obstore, which asks again before they expire, as those of a role do."""
        frozen = self._credentials.get_frozen_credentials()
        expires = datetime.now(UTC) + timedelta(minutes=10) if hasattr(self._credentials, "refresh_needed") else None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires,
        }


def split(uri: str) -> tuple[str, str]:
    """The bucket and the key of ``s3://bucket/key``."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    if not bucket:
        raise RequestError(f"{uri!r} names no bucket")
    return bucket, key


class _Exists(StoreError):
    """An object that was to be created exists already."""


class _Translated:
    """Context manager that turns exceptions of obstore and botocore into `StoreError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, reason: BaseException | None, trace: Any) -> None:
        if isinstance(reason, Exception) and not isinstance(reason, StoreError | RequestError):
            raise _store_error(reason) from reason


def _store_error(reason: Exception) -> StoreError:
    if isinstance(reason, FileNotFoundError | failures.NotFoundError):
        return StoreError("not_found", "the object is not there")
    if isinstance(
        reason,
        PermissionError
        | failures.PermissionDeniedError
        | failures.UnauthenticatedError
        | botocore.exceptions.NoCredentialsError
        | botocore.exceptions.PartialCredentialsError,
    ):
        return StoreError("forbidden", "the store refuses to read the object")
    if isinstance(reason, MemoryError):
        return StoreError("out_of_memory", "not enough memory to hold the object")
    if isinstance(reason, botocore.exceptions.ClientError):
        code = str(reason.response.get("Error", {}).get("Code", ""))
        status = int(reason.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if status == 412 or code in ("PreconditionFailed", "ObjectAlreadyExists"):  # a truncated answer has no code
            return _Exists("changed", "the object exists")
        return _of_status(status)
    if isinstance(reason, ValueError | failures.InvalidPathError | botocore.exceptions.ParamValidationError):
        return StoreError("unreadable", "the store failed to read the object")
    found = _STATUS.search(str(reason))
    return _of_status(int(found[1] or found[2]) if found else 0)


def _of_status(status: int) -> StoreError:
    if status == 404:
        return StoreError("not_found", "the object is not there")
    if status in (401, 403):
        return StoreError("forbidden", "the store refuses to read the object")
    if 300 <= status < 500 and status not in (408, 409, 425, 429):
        return StoreError("unreadable", "the store failed to read the object")
    throttled = status in (429, 503)
    return StoreError("timeout", "the store did not answer in time", transient=True, throttled=throttled)


def _patiently(attempt: Any) -> Any:
    """Call ``attempt`` with retries; raise `OSError` instead of `StoreError`."""
    try:
        return with_retries(attempt, _PATIENCE_S)
    except _Exists:
        raise
    except StoreError as reason:
        raise _os_error(reason) from reason


def _os_error(reason: StoreError) -> OSError:
    kinds: dict[str, type[OSError]] = {
        "not_found": FileNotFoundError,
        "forbidden": PermissionError,
        "timeout": TimeoutError,
    }
    return kinds.get(reason.code, OSError)(reason.message)


def _timeout(timeout_s: float) -> int:
    """The largest timeout of `_TIMEOUTS_S` that is not longer than ``timeout_s``, or the shortest."""
    return max((limit for limit in _TIMEOUTS_S if limit <= timeout_s), default=_TIMEOUTS_S[0])


def _spellable(key: str) -> bool:
    """Whether obstore can represent this key without changing it."""
    return key.isprintable() and all(part not in ("", ".", "..") for part in key.split("/"))


def _named(bucket: str, page: pa.Table) -> pa.Table:
    """A page of keys as a table of `LISTING`."""
    uris = pc.call_function("binary_join_element_wise", [pa.scalar(f"s3://{bucket}/"), page["key"], pa.scalar("")])
    return pa.table([uris, page["etag"], page["size"], page["mtime"]], schema=LISTING)


def _fast_page(batch: pa.RecordBatch) -> pa.Table:
    page = pa.table(batch)
    tags = pc.fill_null(page["e_tag"].cast(pa.string()), "")
    return pa.table(
        {
            "key": page["path"].cast(pa.string()),
            "etag": pc.call_function("utf8_trim", [tags], pc.TrimOptions('"')),
            "size": page["size"].cast(pa.int64()),
            "mtime": page["last_modified"].cast(LISTING.field("mtime").type, safe=False),
        }
    )


def _object(uri: str, size: int, etag: str | None, mtime: datetime) -> Object:
    return Object(uri, int(size), (etag or "").strip('"'), mtime)


def _anonymous() -> bool:
    return os.environ.get(ANONYMOUS) == "1"


def _without_secrets(reason: BaseException) -> str:
    """botocore's message about wrong settings, on one line. It names settings and files, never keys."""
    return " ".join(str(reason).split())
