"""The live display of a run on a terminal: how far it is, how fast, what failed, the time left, and the machines."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

_RATES = 12  # of the last reports, from which the range of the time left is taken


class Display:
    """Shows the facts of `progress` events below the lines of a job."""

    def __init__(self, file: TextIO) -> None:
        self._console = Console(file=file, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._is_shown = False
        self._last = ""
        self._reports: deque[tuple[float, int]] = deque(maxlen=_RATES)

    def line(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(Text(text), soft_wrap=True)

    def update(self, facts: Mapping[str, Any]) -> None:
        """Show how far a run is."""
        done = facts["done"] + facts["failed"]
        if self._reports and done < self._reports[-1][1]:
            self._reports.clear()  # another run has begun
        self._reports.append((facts["seconds"], done))
        if not self._is_shown:
            self._live.start()
            self._is_shown = True
        bar = ProgressBar(total=max(1, facts["pending"]), completed=done, width=40)
        self._last = described(facts, list(self._reports))
        self._live.update(Group(bar, Text(self._last)))

    def close(self) -> None:
        """Take the display away; the lines stay."""
        if self._is_shown:
            self._live.stop()
            self._is_shown = False
            self.line(self._last)


def described(facts: Mapping[str, Any], reports: list[tuple[float, int]]) -> str:
    """The display in words. ``reports``: seconds and inputs done of the last reports, the newest last."""
    done = facts["done"] + facts["failed"]
    found = [f"{done:,} of {facts['pending']:,}"]
    rates = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.pairwise(reports)
        if later[0] > earlier[0]
    ]
    if rates and reports[-1][0] > reports[0][0]:
        rate = (reports[-1][1] - reports[0][1]) / (reports[-1][0] - reports[0][0])
        found.append(f"{rate:.3g}/s")
        left = facts["pending"] - done
        if left and rate:
            slow, fast = sorted(rates)[len(rates) // 4], sorted(rates)[-1 - len(rates) // 4]
            low, high = left / fast, left / slow if slow else None
            found.append(f"{_time(low)} to {_time(high)} left" if high is not None else f"at least {_time(low)} left")
    if facts["errors"]:
        codes = sorted(facts["errors"].items(), key=lambda item: -item[1])
        found.append("failed: " + ", ".join(f"{count:,} {code}" for code, count in codes[:3]))
    kinds = (("nodes", "node"), ("cpus", "CPU"), ("gpus", "GPU"))
    machines = [f"{facts[name]:g} {word}{'s' * (facts[name] != 1)}" for name, word in kinds if facts[name]]
    found.append(f"{facts['actors_running']} actors on {', '.join(machines)}")
    return "  ·  ".join(found)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
