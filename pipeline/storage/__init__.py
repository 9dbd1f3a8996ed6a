"""URIs to bytes and back: local paths, S3, and any other fsspec URI, with the same calls.

A local object is named by its absolute path without a scheme, a remote one by its URI, both verbatim (no percent
encoding), so that what stands in a table opens with the same tools that wrote it.
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
from pipeline.storage.retries import Verdict, retry
from pipeline.storage.store import LISTING, Object, Read, Store, StoreError, with_retries
from pipeline.storage.threads import ordered

__all__ = ["LISTING", "Object", "Read", "StorageConfig", "Store", "StoreError", "Verdict", "retry", "with_retries"]

_FILE_DEADLINE_S = 120.0
_DELETE_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where S3 is, for servers other than Amazon's. Credentials are no settings: they come from the environment, a
    profile or a role, as for every AWS tool."""

    endpoint_url: str | None = None
    """URL of an S3 server; null: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile, or Amazon's."""
    region: str | None = None
    """Region; null: AWS_REGION, AWS_DEFAULT_REGION or the profile's."""
    profile: str | None = None
    """Profile of the AWS configuration files; null: AWS_PROFILE, or the default one."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket stands in the path or in the host name; auto: in the path of servers other than Amazon's."""
    anonymous: bool = False
    """Do not sign requests, for public buckets."""

    def __post_init__(self) -> None:
        url = self.endpoint_url
        if url is not None and "@" in url:  # the value would stand in the message
            raise RequestError("StorageConfig.endpoint_url must hold no credentials")
        check(
            self, "endpoint_url", url is None or url.startswith(("http://", "https://")), "be an http(s) URL, or null"
        )

    def environment(self) -> dict[str, str]:
        """The settings as environment variables, by which they reach every process of a run."""
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
    """Use these settings in this process and in those that it starts."""
    for name, value in _CONFIGURED.items():  # of an earlier call
        if os.environ.get(name) == value:
            del os.environ[name]
    _CONFIGURED.clear()
    _CONFIGURED.update(config.environment())
    os.environ.update(_CONFIGURED)
    _store.cache_clear()


def configured() -> dict[str, str]:
    """Environment variables that processes on other machines need to use the same settings."""
    return dict(_CONFIGURED)


def canonical(uri: str) -> str:
    """``uri`` as this project names it: local paths absolute and without ``file://``, no trailing slash."""
    if uri.startswith("file://"):
        uri = uri[len("file://") :]
    if "://" in uri:
        return _SCHEMES.get(uri.split("://", 1)[0], uri.split("://", 1)[0]) + "://" + uri.split("://", 1)[1].rstrip("/")
    return os.path.abspath(os.path.expanduser(uri))


def store(uri: str) -> Store:
    """The store of a canonical URI. `RequestError` where its scheme is unknown or it holds a password."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _store("")
    if "@" in rest.partition("/")[0]:
        raise RequestError(f"a URI must not hold credentials, got {scheme}://...")
    return _store(scheme)


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in canonical(uri)


def join(uri: str, *parts: str) -> str:
    """``uri/part/part``."""
    return "/".join([canonical(uri), *parts])


def exists(uri: str) -> bool:
    """Whether there is an object or a folder of this name."""
    uri = canonical(uri)
    try:
        store(uri).stat(uri)
    except (FileNotFoundError, NotADirectoryError):
        return is_folder(uri)
    return True


def is_folder(uri: str) -> bool:
    """Whether there is a folder of this name. False where the bucket is missing."""
    uri = canonical(uri)
    try:
        return store(uri).is_folder(uri)
    except FileNotFoundError:
        return False


def read(uri: str) -> bytes:
    """The whole object. `FileNotFoundError`, `PermissionError` or `OSError` where it cannot be read."""
    uri = canonical(uri)
    return store(uri).read(uri)


def write(uri: str, data: bytes) -> None:
    """Write the object in one step: readers see the old content or the new, never a part."""
    uri = canonical(uri)
    store(uri).write(uri, data)


def create(uri: str, data: bytes) -> bool:
    """Write the object only if there is none; False if there is one. ``data`` must differ between callers."""
    uri = canonical(uri)
    return store(uri).create(uri, data)


def delete(uri: str) -> None:
    """Remove one object; one that is not there is fine."""
    uri = canonical(uri)
    store(uri).delete(uri)


def delete_all(uris: Iterable[str]) -> int:
    """Remove many objects, several at the same time; how many."""

    def remove(uri: str) -> int:
        delete(uri)
        return 1

    return sum(ordered(remove, uris, _DELETE_THREADS))


def names(uri: str) -> list[str]:
    """The names of what lies directly in a folder, sorted; none when there is no such folder."""
    uri = canonical(uri)
    try:
        return store(uri).names(uri)
    except FileNotFoundError:  # not even a bucket
        return []


def stat(uri: str) -> Object:
    """One object's size and tag; `FileNotFoundError` when it is not there."""
    uri = canonical(uri)
    return store(uri).stat(uri)


def walk(uri: str, begins: str = "") -> Iterator[pa.Table]:
    """Every object below a folder whose path in it begins so, as pages of `LISTING`, without holding them all."""
    uri = canonical(uri)
    return store(uri).walk(uri, begins)


def open_file(uri: str, read: Read | None = None) -> BinaryIO:
    """The object as a file that can seek; it is read in pieces, as they are asked for.

    Of ``read`` the tag and the deadline count, when the object is opened and at every read; `InputError` ``changed``
    where it has another tag.
    """
    uri = canonical(uri)
    return store(uri).open(uri, read or Read(deadline_s=_FILE_DEADLINE_S))


def fetch(uri: str, read: Read) -> bytes:
    """An input's bytes, or a typed `InputError`.

    Throttling, resets, stalls and answers that are cut off are tried again until the deadline.
    """
    # A key may end with a slash, and such a key is listed; only here it is not the name of a folder.
    uri = canonical(uri) + ("/" if uri.endswith("/") and not is_local(uri) else "")
    try:
        return store(uri).fetch(uri, read)
    except RequestError as reason:
        raise InputError("unreadable", "no store is known for the URI") from reason


def input_error(reason: BaseException) -> InputError:
    """The typed error behind what a store raised."""
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
    """What delta-rs needs besides the usual AWS environment to write to this store."""
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
