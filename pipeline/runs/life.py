"""Life of a job: from the lease on the folder that it writes to, through whatever happens, to its summary.

A segmentation run and a training live alike. One of them at a time works in a folder; what ends it, a failure, a
signal or success, becomes a status and an exit code; both stand in ``summary.json`` before the folder is free again,
because a scheduler sees the code of a submitted job only there.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import DONE, FAILED, JobFailed, RequestError, Stopped
from pipeline.table import lease
from pipeline.table.lease import Lease

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of libraries that write for terminals


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: str
    exit_code: int
    error: str | None = None
    """Why, in one line; None where it is done."""

    def summary(self) -> dict[str, Any]:
        error = {} if self.error is None else {"error": self.error}
        return {"status": self.status, "exit_code": self.exit_code, **error}


def outcome_of(reason: BaseException | None) -> Outcome:
    """The outcome of a job that raised ``reason``, or nothing."""
    if reason is None:
        return Outcome(status="done", exit_code=DONE)
    if isinstance(reason, JobFailed | Stopped):
        return Outcome(status=reason.status, exit_code=reason.exit_code, error=one_line(reason))
    return Outcome(status="failed", exit_code=FAILED, error=f"{type(reason).__name__}: {one_line(reason)}")


def one_line(reason: BaseException) -> str:
    """An error's text without line ends and colours."""
    return " ".join(_COLOURS.sub("", str(reason)).split())


class Life:
    """One job in one folder. `begin`, `work`, `finish`, in this order."""

    def __init__(self, folder: str, name: str, lease_s: float, *, option: str = "sink") -> None:
        """``folder``: what nobody else may write to meanwhile; the lease lies in it. ``option``: what names it."""
        self._folder, self._name, self._lease_s, self._option = folder, name, lease_s, option
        self._held: Lease | None = None

    def begin(self) -> Lease:
        """Take the lease. `RequestError` naming the holder where another job has it; nothing is written then."""
        self._held = lease.acquire(self._folder, self._name, self._lease_s, option=self._option)
        return self._held

    def work(self, run: Callable[[], None]) -> Outcome:
        """``run``, and how it ended. A `RequestError` is raised on, after the folder has been set free."""
        try:
            run()
        except RequestError:
            self._release()
            raise
        except (JobFailed, Stopped) as reason:
            return outcome_of(reason)
        except Exception as reason:
            traceback.print_exc()
            return outcome_of(reason)
        return outcome_of(None)

    def finish(self, summary_uri: str, summary: dict[str, Any]) -> None:
        """Store the summary, and set the folder free."""
        store_json(summary_uri, summary)
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None


def store_json(uri: str, content: dict[str, Any]) -> None:
    """One JSON object, for people and programs."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    storage.write(uri, text.encode("utf-8", "backslashreplace"))


def read_json(uri: str) -> dict[str, Any] | None:
    """The inverse of `store_json`; None where there is nothing that can be read."""
    try:
        found = json.loads(storage.read(uri))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
