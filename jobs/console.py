"""The console: what a job tells becomes lines on standard error, for people or as JSON.

``--log-format json`` prints one JSON object a line, with the time, the kind and the facts of each event (the run, the
block, counts). ``--quiet`` leaves out all but warnings. Both may stand in the environment: ``PARQUETRY_LOG_FORMAT``,
``PARQUETRY_QUIET=1``. They are options of every command, and not settings: results do not depend on them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import RequestError
from pipeline.json_text import to_json
from pipeline.runs.events import Event

if TYPE_CHECKING:
    from jobs.display import Display

FORMATS = ("text", "json")
_LOUD = ("warning",)
_LOCK = threading.Lock()


@dataclass
class Console:
    """How events are printed. There is one for each process: `CONSOLE`."""

    form: str = "text"
    is_quiet: bool = False
    display: Display | None = None
    """The live display; None: lines only, as where standard error is no terminal."""

    def __call__(self, event: Event) -> None:
        if self.is_quiet and event.kind not in _LOUD:
            return
        if self.form == "json":
            self._print_json(event.kind, event.text, event.facts)
        elif self.display is not None and event.kind == "progress" and "pending" in event.facts:
            with _LOCK:
                self.display.update(event.facts)
        elif event.text is not None:
            self._print(f"[{time.strftime('%H:%M:%S')}] {'warning: ' * (event.kind == 'warning')}{event.text}")

    def close(self) -> None:
        """Take the live display away."""
        if self.display is not None:
            with _LOCK:
                self.display.close()
            self.display = None

    def error(self, text: str) -> None:
        """Print why the job ended without success."""
        if self.form == "json":
            self._print_json("error", text, {})
        else:
            self._print(f"error: {text}")

    def _print_json(self, kind: str, text: str | None, facts: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = {} if text is None else {"message": text}
        self._print(to_json({"time": now, "kind": kind, **message, **facts}, ascii_only=True))

    def _print(self, line: str) -> None:
        with _LOCK:
            if self.display is not None:
                self.display.line(line)
            else:
                print(line, file=sys.stderr, flush=True)


CONSOLE = Console()


def say(text: str) -> None:
    """A line for people."""
    CONSOLE(Event(text=text))


def warn(text: str) -> None:
    CONSOLE(Event(kind="warning", text=text))


def configure(argv: Sequence[str]) -> list[str]:
    """Set `CONSOLE` from the arguments and the environment. Returns the other arguments.

    `RequestError` for a format that there is not.
    """
    CONSOLE.form = os.environ.get("PARQUETRY_LOG_FORMAT") or "text"
    CONSOLE.is_quiet = os.environ.get("PARQUETRY_QUIET", "") not in ("", "0")
    source, rest, words = "PARQUETRY_LOG_FORMAT", [], iter(argv)
    for word in words:
        name, equals, value = word.replace("_", "-").partition("=")
        if name == "--quiet" and not equals:
            CONSOLE.is_quiet = True
        elif name == "--log-format":
            source, CONSOLE.form = "--log-format", value if equals else next(words, "")
        else:
            rest.append(word)
    if CONSOLE.form not in FORMATS:
        given, CONSOLE.form = CONSOLE.form, "text"
        raise RequestError(f"{source} must be one of {', '.join(FORMATS)}, got {given!r}")
    return rest


def show() -> None:
    """Begin the live display, where standard error is a terminal and lines for people are wanted."""
    if CONSOLE.form == "text" and not CONSOLE.is_quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from jobs.display import Display  # rich takes time to import

        CONSOLE.display = Display(sys.stderr)
