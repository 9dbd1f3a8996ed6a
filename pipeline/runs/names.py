"""Names of runs. They sort in the order of the runs of a table, even if clocks are wrong."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def run_name(last: str) -> str:
    """UTC time and four random hex digits, such as ``20261126T012406.427816Z-60c2``; it always sorts after ``last``."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    stamp = max(now, last.rsplit("-", 1)[0])
    name = f"{stamp}-{secrets.token_hex(2)}"
    return name if name > last else last + secrets.token_hex(2)  # a name sorts after every prefix of it
