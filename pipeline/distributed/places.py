"""Places: proof that a process of a run sees the same sink, model package and source as the driver, and has its device.

A path without a scheme names a file of one machine. Where machines share no disk, each process would write its parts
to its own, and the driver would commit files that nobody else finds. So the driver writes a token into the sink, and
each process that reads or writes looks for it before its first block. Nodes that join later are covered, too.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import ray

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.package import BUILTIN

_SAMPLE = 8  # inputs of which one must be there; a few may be deleted while a run goes on


class UnfitNode(RequestError):
    """A node cannot do the work as it is."""


class PlaceNotShared(UnfitNode):
    """A node does not see a place that the driver sees."""


class DeviceMissing(UnfitNode):
    """A node offers GPUs to Ray, but torch sees none there."""


class PackageMissing(UnfitNode):
    """A node lacks a Python package that the model or the task needs."""


_RAISED = re.compile(rf"^{re.escape(__name__)}\.(?:PlaceNotShared|DeviceMissing|PackageMissing): (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Places:
    """What each process must see. It is sent to the workers."""

    folder: str
    """URI of the folder to which the processes write, and which contains the token."""
    token: str
    package: str | None = None
    """URI of the model package."""
    inputs: tuple[str, ...] = ()
    """Some inputs at local paths."""

    def check(self) -> None:
        """`PlaceNotShared` if this process does not see a place."""
        try:
            found = storage.read(_token_uri(self.folder)).decode()
        except (OSError, ValueError):
            found = None
        if found != self.token:
            raise PlaceNotShared(_message(self.folder, "the folder of this job"))
        if self.package is not None and storage.is_local(self.package) and not storage.exists(self.package):
            raise PlaceNotShared(_message(self.package, "the model package"))
        if self.inputs and not any(storage.exists(uri) for uri in self.inputs):
            raise PlaceNotShared(_message(os.path.commonpath(self.inputs), "the source"))

    def see(self) -> None:
        """As `check`, but only once in each process."""
        if self not in _SEEN:
            self.check()
            _SEEN.add(self)

    def remove(self) -> None:
        """Delete the token."""
        storage.delete(_token_uri(self.folder))


_SEEN: set[Places] = set()  # by this process


def mark(folder: str, *, package: str | None = None, inputs: Iterable[str] = ()) -> Places:
    """Write a new token into a folder. ``inputs``: URIs of inputs, of which a few at local paths are taken.

    A package that is a part of this project lies in each installation, and its digest is compared when it is loaded.
    """
    token = secrets.token_hex(16)
    storage.write(_token_uri(folder), token.encode())
    local = [uri for uri in inputs if storage.is_local(uri)]
    step = max(1, len(local) // _SAMPLE)
    stored = None if package is None or package.startswith(BUILTIN) else package
    return Places(folder=folder, token=token, package=stored, inputs=tuple(local[::step][:_SAMPLE]))


def unfit_node(reason: BaseException) -> UnfitNode | None:
    """The `UnfitNode` of a worker, if it is the cause of an exception that Ray raised in the driver.

    Ray keeps only the text of such a cause.
    """
    found = _RAISED.search(str(reason))
    return None if found is None else UnfitNode(found[1])


def require(lack: str | None) -> None:
    """`PackageMissing` if this process lacks something: what `Task.missing` says."""
    if lack is not None:
        raise PackageMissing(f"node {this_node()}: {lack}")


def _token_uri(folder: str) -> str:
    return storage.join(folder, "token")


def this_node() -> str:
    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"


def _message(place: str, what: str) -> str:
    return (
        f"node {this_node()} does not see {what} at {place}: all nodes that work must see the same files there, on a "
        "shared disk or in an object store"
    )
