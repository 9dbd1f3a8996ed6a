"""Names of runs. They sort in the order of the runs of a table, even if clocks are wrong."""

from __future__ import annotations

import contextlib
import re
import secrets
from datetime import UTC, datetime, timedelta

_STAMP = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4,}")


def run_name(last: str) -> str:
    """UTC time and four random hex digits, such as ``20261126T012406.427816Z-60c2``; it always sorts after ``last``.

    If the clock is behind the time in ``last``, the name is a microsecond after that, so that names keep their length.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    with contextlib.suppress(ValueError, OverflowError):  # the first run, or the last microsecond of the year 9999
        now = max(now, datetime.strptime(last.rpartition("-")[0], _STAMP) + timedelta(microseconds=1))
    name = f"{now.strftime(_STAMP)}-{secrets.token_hex(2)}"
    return name if name > last else last + secrets.token_hex(2)  # a name sorts after every prefix of it


def is_run_name(text: str) -> bool:
    """Whether a text looks like the name of a run."""
    return _NAME.fullmatch(text) is not None
