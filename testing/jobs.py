"""Calling jobs in this process, on the session's cluster, which saves the seconds of starting a command.

Tests of signals, kills, exit codes, the line on standard output, or a cluster of one CPU need a real process: see
`testing.processes`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import traceback
from typing import Any

from jobs.cli import parse
from jobs.commands import COMMANDS
from pipeline import storage
from pipeline.errors import DONE, WRONG_REQUEST, RequestError
from pipeline.runs.life import one_line, outcome_of


def call_job(name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Call a job; returns its exit code, its summary as it would be printed, and its standard error."""
    module = importlib.import_module(f"jobs.{name}")
    settings = getattr(module, COMMANDS[name.replace("_", "-")].settings)
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
