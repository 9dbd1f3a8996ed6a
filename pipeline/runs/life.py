"""The life of a job that writes to a folder, from the lease on the folder to the summary. Runs and trainings share it.

Only one job at a time works in a folder. Its end (success, failure or signal) becomes a status and an exit code. Both
are written to ``summary.json`` before the lease is released, because that file is the only place where a scheduler can
read the exit code of a submitted job.
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
from pipeline.json_text import to_json
from pipeline.redaction import redacted, redacted_values
from pipeline.submission import identified
from pipeline.table import lease
from pipeline.table.lease import Lease

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # some libraries put terminal colours into their messages


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: str
    exit_code: int
    error: str | None = None
    """The reason in one line; None if the job succeeded."""

    def summary(self) -> dict[str, Any]:
        error = {} if self.error is None else {"error": self.error}
        return {"status": self.status, "exit_code": self.exit_code, **error}


def outcome_of(reason: BaseException | None) -> Outcome:
    """The outcome of a job that raised ``reason``; None means that it raised nothing."""
    if reason is None:
        return Outcome(status="done", exit_code=DONE)
    if isinstance(reason, JobFailed | Stopped):
        return Outcome(status=reason.status, exit_code=reason.exit_code, error=one_line(reason))
    return Outcome(status="failed", exit_code=FAILED, error=f"{type(reason).__name__}: {one_line(reason)}")


def one_line(reason: BaseException) -> str:
    """The text of an exception without line ends, terminal colours, and secrets of this process."""
    return redacted(" ".join(_COLOURS.sub("", str(reason)).split()))


class Life:
    """A job in a folder. Call `begin`, `work` and `finish`, in this order."""

    def __init__(self, folder: str, name: str, lease_s: float, *, option: str = "sink") -> None:
        """``folder``: where only this job may write; it contains the lease. ``option``: the setting that names it."""
        self._folder, self._name, self._lease_s, self._option = folder, name, lease_s, option
        self._held: Lease | None = None

    def begin(self, after: int = 0) -> Lease:
        """Take the lease, with a number above ``after``. `RequestError` that names the holder if another job has it;
        nothing is written then."""
        self._held = lease.acquire(self._folder, self._name, self._lease_s, option=self._option, after=after)
        return self._held

    def work(self, run: Callable[[], None]) -> Outcome:
        """Call ``run`` and return how it ended. A `RequestError` is raised again after the lease is released."""
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
        """Write the summary, with the submission id of a submitted job, and release the lease."""
        store_json(summary_uri, {**identified(), **summary})
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None


def store_json(uri: str, content: dict[str, Any]) -> None:
    """Write a JSON object, indented for people, without secrets of this process."""
    storage.write(uri, (to_json(redacted_values(content), indent=2) + "\n").encode("utf-8", "backslashreplace"))


def read_json(uri: str) -> dict[str, Any] | None:
    """Read an object that `store_json` has written; None if it does not exist or cannot be read."""
    try:
        found = json.loads(storage.read(uri))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
