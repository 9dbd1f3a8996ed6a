"""Leases: they allow one run at a time to write to a sink, whichever processes or machines die.

A lease is an object ``SINK/lease/NUMBER.json``. It is made by a create-only write, so if several runs try, one
succeeds. The lease with the highest number is valid. Its holder renews it by writing to it. Another run watches for
renewals by its own clock, so clocks of different machines are never compared. If there is none in one lease time, that
run takes the next number.

Every commit to the table carries the number of its lease, and the table refuses lower numbers (`pipeline.table.delta`).
So a holder that was suspended and lost its lease meanwhile cannot commit. It loses its work, but no row is damaged.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline import storage
from pipeline.errors import JobFailed, RequestError
from pipeline.storage.names import as_name
from pipeline.submission import is_submitted

_NAME = re.compile(r"(\d{12})\.json")
_POLLS = 6  # checks of another run's lease in the time of one renewal


class LeaseLost(JobFailed):
    """Another run has taken over the sink. The rows that this run has committed stay."""

    status = "lease lost"


class Lease:
    """A lease that this process holds and renews in the background, until `release`."""

    def __init__(self, folder: str, number: int, record: dict[str, Any]) -> None:
        self.number = number
        self._folder, self._record = folder, record
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `LeaseLost` if another run has taken over the sink."""
        if self._lost.is_set():
            raise LeaseLost(f"another run has taken the sink over (lease {self.number} is no longer the newest)")

    def release(self) -> None:
        """Mark the lease as released, so that the next run need not wait."""
        self._ended.set()
        self._thread.join()
        if not self._lost.is_set():
            self._write(released=True)

    def _renew(self) -> None:
        while not self._ended.wait(self._record["lease_s"] / 3):
            try:
                self._write(renewals=self._record["renewals"] + 1)
                newest = _newest(self._folder)
            except OSError:  # the store is not reachable; until it is, the table's lease number protects the commits
                continue
            if newest is not None and newest > self.number:
                self._lost.set()
                return

    def _write(self, **changes: Any) -> None:
        self._record = self._record | changes
        storage.write(_uri(self._folder, self.number), _bytes(self._record))


def check_place(place: str, option: str) -> None:
    """`RequestError` if a folder cannot be made or written at a local path. Nothing is written.

    Jobs call this before they connect to a cluster, which takes long. Stores tell it only when they are written to.
    Also refused is a relative path in a submitted job, since Ray starts its command in a temporary folder.
    """
    if not storage.is_local(place):
        return
    if is_submitted() and (_is_relative(place) or storage.is_within(place, os.getcwd())):
        raise RequestError(
            f"{option} {place!r}: a submitted job must write to an absolute path that all nodes see, or to an object "
            "store; its working folder is a temporary one of Ray"
        )
    above = storage.canonical(place)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise RequestError(f"{option} {place!r} cannot be written: {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RequestError(f"{option} {place!r} cannot be written: no permission to write to {above}")


def holder(place: str) -> dict[str, Any] | None:
    """The record of the newest lease on a folder, if it is not released and its process has not died on this machine.

    It may have been abandoned on another machine; only waiting for a renewal would tell.
    """
    folder = storage.join(place, "lease")
    newest = _newest(folder)
    found = None if newest is None else _read(folder, newest)
    return None if not found or found["released"] or _is_dead_here(found) else found


def acquire(place: str, run_id: str, lease_s: float, *, option: str = "sink", after: int = 0) -> Lease:
    """Take the lease on a folder. `RequestError` that names the holder if another run has it.

    If the holder's process was on this machine and has ended, the lease is free at once. Otherwise it is free after one
    lease time without renewal. ``option`` is the setting that names the folder, for the error message. The lease has a
    number above ``after``: that of the table's newest lease, in case that somebody has deleted the lease's folder.
    """
    folder = storage.join(place, "lease")
    if storage.is_local(folder) and as_name(folder) != folder:  # libraries that write there know it by another name
        raise RequestError(f"{option} {place!r}: the name of a folder that is written must be UTF-8")
    mine = {
        "run_id": run_id,
        "host": socket.gethostname(),
        "process": _process(),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "lease_s": lease_s,
        "renewals": 0,
        "released": False,
        "token": secrets.token_hex(16),
    }
    check_place(place, option)
    while True:
        newest = _newest(folder)
        if newest is not None and not _is_free(folder, newest, f"{option} {place!r}"):
            continue  # another run has taken a newer lease meanwhile
        number = max(newest or 0, after) + 1
        try:
            created = storage.create(_uri(folder, number), _bytes(mine))
        except (FileNotFoundError, NotADirectoryError, PermissionError) as reason:
            raise RequestError(f"{option} {place!r} cannot be written ({type(reason).__name__})") from reason
        if created and _newest(folder) == number:
            for old in _numbers(folder)[:-2]:
                storage.delete(_uri(folder, old))
            return Lease(folder, number, mine)


def _is_free(folder: str, number: int, place: str) -> bool:
    """Whether a lease is free; False if a newer one appears. Waits up to one lease time for a renewal if necessary."""
    first = _read(folder, number)
    if first is None:
        return False
    if not first:
        return True
    if first["released"] or _is_dead_here(first):
        return True
    waited, step = 0.0, first["lease_s"] / 3 / _POLLS
    while not _is_alive_here(first) and waited <= first["lease_s"]:
        time.sleep(step)
        waited += step
        if _newest(folder) != number:
            return False
        record = _read(folder, number)
        if record is None:
            return False
        if not record or record["released"]:
            return True
        if record["renewals"] != first["renewals"]:
            break
    else:
        if not _is_alive_here(first):
            return True
    raise RequestError(
        f"{place} is in use by run {first['run_id']} (host {first['host']}, process {first['pid']}); "
        "one run at a time may write there"
    )


def _is_relative(place: str) -> bool:
    return not os.path.isabs(os.path.expanduser(place.removeprefix("file://")))


def _process() -> str:
    """Identifies the kernel and the process namespace, within which a process number has a meaning."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks of the kernel; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_here(record: dict[str, Any]) -> bool:
    return bool(record["process"]) and (record["host"], record["process"]) == (socket.gethostname(), _process())


def _is_dead_here(record: dict[str, Any]) -> bool:
    return _is_here(record) and _started(record["pid"]) != record["pid_started"]


def _is_alive_here(record: dict[str, Any]) -> bool:
    return _is_here(record) and _started(record["pid"]) == record["pid_started"]


def _numbers(folder: str) -> list[int]:
    return sorted(int(match[1]) for name in storage.names(folder) if (match := _NAME.fullmatch(name)))


def _newest(folder: str) -> int | None:
    return max(_numbers(folder), default=None)


def _read(folder: str, number: int) -> dict[str, Any] | None:
    """The content of a lease; None if it is gone. An empty one if it says nothing, as a power cut leaves a file: then
    nobody holds it, and if somebody does after all, the table's lease number protects the commits."""
    try:
        found = json.loads(storage.read(_uri(folder, number)))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    needed = {"run_id", "host", "process", "pid", "pid_started", "lease_s", "renewals", "released"}
    return found if isinstance(found, dict) and needed <= set(found) else {}


@contextmanager
def alone(sink: str, purpose: str, lease_s: float, *, after: int) -> Iterator[Lease]:
    """Hold the lease on a sink for a command that is no run, so that no run writes there meanwhile.

    Raises as `acquire` does, which also explains ``after``.
    """
    held = acquire(sink, f"{purpose}-{os.getpid()}", lease_s, after=after)
    try:
        yield held
    finally:
        held.release()


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:012d}.json")


def _bytes(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2).encode()
