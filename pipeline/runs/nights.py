"""Nights: what several runs that one command does have in common: the deadline, the exit code, and the summary."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.config import check
from pipeline.errors import DONE, ERROR_BUDGET, FAILED, GATE, TIME_LIMIT, WRONG_REQUEST
from pipeline.json_text import to_json

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_WEBHOOK_S = 20.0
#: What the exit codes of runs make of the night's, the worst first.
_ORDER = (FAILED, WRONG_REQUEST, ERROR_BUDGET, GATE, TIME_LIMIT, DONE)
_WORDS = {
    DONE: "done",
    FAILED: "failed",
    WRONG_REQUEST: "wrong request",
    ERROR_BUDGET: "too many inputs failed",
    GATE: "a gate was not passed",
    TIME_LIMIT: "stopped at the deadline",
}


@dataclass(frozen=True, kw_only=True)
class Prices:
    cpu_hour: float = 0.0
    """Price of a CPU for an hour."""
    gpu_hour: float = 0.0
    """Price of a GPU for an hour, its CPUs apart."""
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("cpu_hour", "gpu_hour"):
            check(self, name, getattr(self, name) >= 0, "not be negative")

    def cost(self, seconds: float, cpus: float, gpus: float) -> float | None:
        """What machines with so many CPUs and GPUs cost in that time; None where there are no prices."""
        if not self.cpu_hour and not self.gpu_hour:
            return None
        return round(seconds / 3600 * (cpus * self.cpu_hour + gpus * self.gpu_hour), 4)


def seconds_until(deadline: str, now: datetime) -> float:
    """The seconds until a time of day (``06:30``, the next one), or of a duration (``8h``, ``90m``, ``1h30m``).

    ``now`` is a time of this machine, without a zone. `ValueError` for anything else.
    """
    if found := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", deadline):
        end = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return ((end if end > now else end + timedelta(days=1)) - now).total_seconds()
    if re.fullmatch(r"(\d+[hms])+", deadline):
        return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([hms])", deadline))
    raise ValueError(f"must be a time of day such as 06:30, or a duration such as 8h or 90m, got {deadline!r}")


def exit_code(sources: Mapping[str, Mapping[str, Any]]) -> int:
    """The exit code of a night: that of the signal which ended it, or the worst of its sources'."""
    codes = [int(found["exit_code"]) for found in sources.values()]
    signals = [code for code in codes if code >= 128]
    return signals[0] if signals else next((code for code in _ORDER if code in codes), FAILED if codes else DONE)


def status(code: int) -> str:
    """An exit code in words."""
    return _WORDS.get(code, "stopped")


def text_summary(name: str, summary: Mapping[str, Any]) -> str:
    """The summary of a night as plain text, for a mail."""
    lines = [f"Night {name}: {summary['status']} (exit code {summary['exit_code']})", ""]
    for source, found in summary["sources"].items():
        lines.append(f"{source}: {found['status']}")
        if "listed" in found:
            counts = f"{found['listed']} listed, {found['skipped']} done before, {found['done']} done"
            lines.append(f"  {counts}, {found['failed']} failed, in {found['seconds']:.0f} s")
        codes = ", ".join(f"{count} {code}" for code, count in found.get("errors", {}).items())
        lines += [f"  failed: {codes}"] if codes else []
        lines += [f"  gate: {reason}" for reason in found.get("gates", [])]
        lines += [f"  to accept it: {found['to_accept']}"] if "to_accept" in found else []
        lines += [f"  error: {found['error']}"] if found.get("error") else []
        lines += [f"  report: {found['report']}"] if found.get("report") else []
    return "\n".join(lines) + "\n"


def post(url: str, summary: Mapping[str, Any]) -> None:
    """Send a summary to a webhook, as JSON. Raises `OSError`, `ValueError` or `HTTPException` if that fails."""
    data = to_json(summary).encode("utf-8", "backslashreplace")
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=_WEBHOOK_S):
        pass
