"""What Ray tells the command of a submitted job: its submission id, and its runtime environment."""

from __future__ import annotations

import json
import os
from typing import Any

_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it where it starts the command of a submitted job


def is_submitted() -> bool:
    """Whether this process is the command of a submitted job."""
    return bool(os.environ.get(_VARIABLE))


def submission_id() -> str | None:
    """The submission id of the job; None if it was not submitted."""
    found = _described("metadata").get("job_submission_id")
    return str(found) if found else None


def identified() -> dict[str, str]:
    """The submission id as an entry of a summary, which has none if the job was not submitted."""
    name = submission_id()
    return {} if name is None else {"submission_id": name}


def runtime_environment() -> dict[str, Any]:
    """The runtime environment that was submitted with the job."""
    return _described("runtime_env")


def _described(part: str) -> dict[str, Any]:
    try:
        found = json.loads(os.environ.get(_VARIABLE) or "{}")
    except ValueError:
        return {}
    found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
