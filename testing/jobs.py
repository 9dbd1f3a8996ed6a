"""Jobs called in this process, on the session's cluster: what a command does, without the seconds of starting one.

What only a process shows (signals, kills, exit codes, the one line on standard output, a cluster of one CPU) is tested
with `testing.processes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import traceback
from typing import Any

from jobs.cli import parse
from pipeline import storage
from pipeline.errors import DONE, WRONG_REQUEST, RequestError
from pipeline.runs.life import one_line, outcome_of


def call_job(name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """A job's exit code, its summary as it would be printed, and what it said on standard error."""
    module = importlib.import_module(f"jobs.{name}")
    settings = next(
        item
        for item in vars(module).values()
        if dataclasses.is_dataclass(item) and isinstance(item, type) and item.__module__ == module.__name__
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parsed = parse(settings, list(arguments))
            storage.configure(getattr(parsed, "storage", storage.StorageConfig()))
            summary = module.work(parsed)
            code = int(summary.get("exit_code", DONE))
        except RequestError as reason:
            summary, code = {"status": "wrong request", "error": one_line(reason)}, WRONG_REQUEST
        except Exception as reason:
            traceback.print_exc()
            outcome = outcome_of(reason)
            summary, code = outcome.summary(), outcome.exit_code
    return code, json.loads(json.dumps(summary)), said.getvalue()
