"""The end of a command: its error on standard error, its summary as the last line of standard output, its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

from jobs.console import CONSOLE
from pipeline.errors import DONE
from pipeline.json_text import to_json
from pipeline.submission import identified


def finish(summary: dict[str, Any], code: int) -> NoReturn:
    """Print the summary as one line of JSON, with its error on standard error, and end the process with ``code``.

    The summary of a submitted job has its submission id.
    """
    CONSOLE.close()
    if code != DONE and summary.get("error"):
        CONSOLE.error(summary["error"])
    with contextlib.suppress(BrokenPipeError):  # whoever read the output has gone; the work is done all the same
        print(to_json({**identified(), **summary, "exit_code": code}, ascii_only=True), flush=True)
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.flush()
    os._exit(code)  # threads of the cluster's client must not keep a finished job alive
