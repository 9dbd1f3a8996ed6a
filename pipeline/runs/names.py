"""Names of runs: each sorts after all that its table has seen, whatever the clocks say."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def run_name(last: str) -> str:
    """UTC time and four random hex digits, such as ``20261126T012406.427816Z-60c2``; after ``last`` in any case."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    stamp = max(now, last.rsplit("-", 1)[0])
    name = f"{stamp}-{secrets.token_hex(2)}"
    return name if name > last else last + secrets.token_hex(2)  # a longer name sorts after its beginning
