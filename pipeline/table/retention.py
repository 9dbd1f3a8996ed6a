"""Retention: how long a table keeps files that have left it, so that it can be what it was before.

The setting is Delta's own property of the table, so other tools that vacuum it go by it, too.
"""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import unquote

from deltalake import DeltaTable

from pipeline.errors import RequestError
from pipeline.table.log import committed_parts, properties_of, removed_files

#: How long files are kept, and how long the log names the commits of a table, without a setting: as Delta says.
FILES, LOG = timedelta(days=7), timedelta(days=30)

_FILES, _LOG = "delta.deletedFileRetentionDuration", "delta.logRetentionDuration"
_UNITS = ("microsecond", "millisecond", "second", "minute", "hour", "day", "week")
_INTERVAL = re.compile(rf"\s*(?:interval\s+)?'?(\d+)'?\s+({'|'.join(_UNITS)})s?\s*", re.IGNORECASE)


def retention(delta: DeltaTable) -> timedelta:
    """How long a table keeps files that have left it. `RequestError` if another tool has set something else."""
    value = properties_of(delta).get(_FILES)
    if value is None:
        return FILES
    found = _INTERVAL.fullmatch(value)
    if found is None:
        raise RequestError(
            f"the table at {delta.table_uri}: its property {_FILES} must be such as 'interval 7 days', got {value!r}; "
            "verify --retention-days sets it"
        )
    return timedelta(**{f"{found[2].lower()}s": int(found[1])})


def retention_properties(days: float) -> dict[str, str]:
    """The properties of a table that keeps its files for so many days. Its log keeps the names of their versions as
    long, and at least as long as without a setting."""
    kept = timedelta(days=days)
    return {_FILES: _interval(kept), _LOG: _interval(max(kept, LOG))}


def kept_files(delta: DeltaTable) -> set[str]:
    """The files that are in the table, or have left it within its `retention`, as they are below its folder. All others
    may be deleted at any time."""
    retention(delta)  # refuses a property that delta-rs would read as something else
    left = removed_files(delta) - removed_files(delta, only_expired=True)
    return {part.file for part in committed_parts(delta)} | {unquote(path) for path in left} | left


def spoken(time: timedelta) -> str:
    """A time for messages: in days, or in hours if it is no whole number of days."""
    days, hours = time / timedelta(days=1), time / timedelta(hours=1)
    return f"{days:g} days" if days == int(days) else f"{hours:.3g} hours"


def _interval(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    return f"interval {seconds // 86_400} days" if seconds % 86_400 == 0 else f"interval {seconds} seconds"
