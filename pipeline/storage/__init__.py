"""Reading and writing objects by URI: local paths, S3, and all other schemes of fsspec, with the same functions.

A local object is named by its absolute path without a scheme, a remote one by its URI. Neither is percent-encoded, so
that other tools can open the names that are stored in tables. Names that are no text are escaped
(`pipeline.storage.names`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, Literal

import pyarrow as pa

from pipeline.config import check
from pipeline.errors import InputError, RequestError
from pipeline.storage import s3
from pipeline.storage.fsspec_store import FsspecStore
from pipeline.storage.local import LocalStore
from pipeline.storage.names import without_surrogates
from pipeline.storage.retries import Verdict, retry
from pipeline.storage.store import LISTING, Object, Read, Store, StoreError, with_retries
from pipeline.storage.threads import ordered

__all__ = ["LISTING", "Object", "Read", "StorageConfig", "Store", "StoreError", "Verdict", "retry", "with_retries"]

_FILE_DEADLINE_S = 120.0
_DELETE_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Settings for S3 servers other than Amazon's. Credentials are not settings: they come from the environment, a
    profile or a role, as for every AWS tool."""

    endpoint_url: str | None = None
    """URL of an S3 server; null: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, or Amazon's."""
    region: str | None = None
    """Region of the bucket; null: AWS_REGION, AWS_DEFAULT_REGION or the profile's."""
    profile: str | None = None
    """Profile in the AWS configuration files; null: AWS_PROFILE, or the default profile."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """How requests name the bucket: path, or virtual (in the host name). auto: path, except for Amazon's servers."""
    anonymous: bool = False
    """Send requests without a signature, for public buckets."""

    def __post_init__(self) -> None:
        url = self.endpoint_url
        if url is not None and "@" in url:  # checked first, since the message of `check` would show the password
            raise RequestError("StorageConfig.endpoint_url must hold no credentials")
        check(
            self, "endpoint_url", url is None or url.startswith(("http://", "https://")), "be an http(s) URL, or null"
        )

    def environment(self) -> dict[str, str]:
        """The settings as environment variables, which a run sets in all its processes."""
        values = {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_PROFILE": self.profile,
            s3.ADDRESSING: None if self.addressing == "auto" else self.addressing,
            s3.ANONYMOUS: "1" if self.anonymous else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def configure(config: StorageConfig) -> None:
    """Use these settings in this process, and in the processes that it starts."""
    for name, value in _CONFIGURED.items():  # remove the settings of an earlier call
        if os.environ.get(name) == value:
            del os.environ[name]
    _CONFIGURED.clear()
    _CONFIGURED.update(config.environment())
    os.environ.update(_CONFIGURED)
    _store.cache_clear()


def configured() -> dict[str, str]:
    """The environment variables that make processes on other machines use the same settings."""
    return dict(_CONFIGURED)


def credentials() -> dict[str, str]:
    """The environment variables of this process that are credentials of AWS; empty if it has them from elsewhere."""
    if not os.environ.get(s3.CREDENTIALS[0]):
        return {}
    return {name: os.environ[name] for name in s3.CREDENTIALS if os.environ.get(name)}


def canonical(uri: str) -> str:
    """The form of ``uri`` that this project stores: local paths absolute and without ``file://``; no trailing slash.

    It is text that a table can hold, whatever the name (`pipeline.storage.names`).
    """
    uri = without_surrogates(uri)
    if uri.startswith("file://"):
        uri = uri[len("file://") :]
    if "://" in uri:
        return _SCHEMES.get(uri.split("://", 1)[0], uri.split("://", 1)[0]) + "://" + uri.split("://", 1)[1].rstrip("/")
    return without_surrogates(os.path.abspath(os.path.expanduser(uri)))


def store(uri: str) -> Store:
    """The store of a canonical URI. `RequestError` if its scheme is unknown or it contains a password."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _store("")
    if "@" in rest.partition("/")[0]:
        raise RequestError(f"a URI must not hold credentials, got {scheme}://...")
    return _store(scheme)


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in canonical(uri)


def is_within(uri: str, folder: str) -> bool:
    """Whether the URI is the folder's, or that of something below it, by their names."""
    return f"{canonical(uri).rstrip('/')}/".startswith(f"{canonical(folder).rstrip('/')}/")


def join(uri: str, *parts: str) -> str:
    """The canonical URI of ``uri`` with the parts appended: ``uri/part/part``."""
    return "/".join([canonical(uri), *parts])


def exists(uri: str) -> bool:
    """Whether an object or a folder of this name exists."""
    uri = canonical(uri)
    try:
        store(uri).stat(uri)
    except (FileNotFoundError, NotADirectoryError):
        return is_folder(uri)
    return True


def is_folder(uri: str) -> bool:
    """Whether a folder of this name exists. False if the bucket does not exist."""
    uri = canonical(uri)
    try:
        return store(uri).is_folder(uri)
    except FileNotFoundError:
        return False


def read(uri: str) -> bytes:
    """The bytes of an object. Raises `FileNotFoundError`, `PermissionError` or `OSError` if it cannot be read."""
    uri = canonical(uri)
    return store(uri).read(uri)


def write(uri: str, data: bytes) -> None:
    """Write an object atomically: readers see the old content or the new, never a part."""
    uri = canonical(uri)
    store(uri).write(uri, data)


def create(uri: str, data: bytes) -> bool:
    """Write an object only if it does not exist. Returns whether it was written. Callers must not write equal data."""
    uri = canonical(uri)
    return store(uri).create(uri, data)


def sync(uri: str, known: set[str]) -> None:
    """Make the files directly in a folder outlast a power cut, if the folder is local. For what other libraries write;
    `write` and `create` do so themselves. Names in ``known`` are left out, and all that are there are added to it."""
    uri = canonical(uri)
    if is_local(uri):
        LocalStore().sync(uri, known)


def delete(uri: str) -> None:
    """Delete an object. It is no error if it does not exist."""
    uri = canonical(uri)
    store(uri).delete(uri)


def delete_all(uris: Iterable[str]) -> int:
    """Delete objects, several at the same time; returns their number."""

    def remove(uri: str) -> int:
        delete(uri)
        return 1

    return sum(ordered(remove, uris, _DELETE_THREADS))


def names(uri: str) -> list[str]:
    """The names of the objects and folders directly in a folder, sorted; an empty list if there is no such folder."""
    uri = canonical(uri)
    try:
        return store(uri).names(uri)
    except FileNotFoundError:  # the bucket does not exist, either
        return []


def stat(uri: str) -> Object:
    """The size, the tag and the time of an object. `FileNotFoundError` if it does not exist."""
    uri = canonical(uri)
    return store(uri).stat(uri)


def walk(uri: str, begins: str = "") -> Iterator[pa.Table]:
    """All objects below a folder whose path in it begins with ``begins``, page by page, as tables of `LISTING`."""
    uri = canonical(uri)
    return store(uri).walk(uri, begins)


def open_file(uri: str, read: Read | None = None) -> BinaryIO:
    """Open an object as a file that can seek. It is read in pieces when they are needed.

    The tag and the deadline of ``read`` apply when the object is opened and at every read. `InputError` ``changed`` if
    the object has another tag.
    """
    uri = canonical(uri)
    return store(uri).open(uri, read or Read(deadline_s=_FILE_DEADLINE_S))


def fetch(uri: str, read: Read) -> bytes:
    """The bytes of an input. Raises `InputError` if they cannot be read.

    Throttling, connection resets, stalls and truncated answers are retried until the deadline.
    """
    # On object stores a key may end with a slash, and listings contain such keys. So the slash is kept here.
    uri = canonical(uri) + ("/" if uri.endswith("/") and not is_local(uri) else "")
    try:
        return store(uri).fetch(uri, read)
    except RequestError as reason:
        raise InputError("unreadable", "no store is known for the URI") from reason


def input_error(reason: BaseException) -> InputError:
    """The `InputError` for an exception that a store raised."""
    if isinstance(reason, InputError):
        return reason
    if isinstance(reason, FileNotFoundError):
        return InputError("not_found", "the object is not there")
    if isinstance(reason, PermissionError):
        return InputError("forbidden", "the store refuses to read the object")
    if isinstance(reason, TimeoutError):
        return InputError("timeout", "the store did not answer in time")
    if isinstance(reason, MemoryError):
        return InputError("out_of_memory", "not enough memory to hold the object")
    return InputError("unreadable", "the store failed to read the object")


def delta_options(uri: str) -> dict[str, str]:
    """The options that delta-rs needs, besides the usual AWS environment, to write to this store."""
    uri = canonical(uri)
    if not uri.startswith("s3://"):
        return {}
    found = store(uri)
    assert isinstance(found, s3.S3)
    options = {"aws_conditional_put": "etag", "AWS_REGION": found.region()}
    endpoint = found.endpoint()
    if ".amazonaws.com" not in endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    if os.environ.get(s3.ADDRESSING) == "virtual":
        options["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "true"
    if os.environ.get(s3.ANONYMOUS) == "1":
        options["AWS_SKIP_SIGNATURE"] = "true"
    return options


_CONFIGURED: dict[str, str] = {}
_SCHEMES = {"s3a": "s3", "s3n": "s3"}


@cache
def _store(scheme: str) -> Store:
    if scheme == "":
        return LocalStore()
    if scheme == "s3":
        return s3.S3()
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as reason:
        raise RequestError(f"no store for {scheme}://: the scheme is not known or its package is missing") from reason
    return FsspecStore(scheme)
