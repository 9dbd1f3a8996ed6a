"""Counts of a run: what it listed, did and failed at, true at any moment; they become its summary."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ERROR_BUDGET, JobFailed


class ErrorBudgetSpent(JobFailed):
    """More inputs failed than ``max_error_rate`` allows."""

    status = "error budget spent"
    exit_code = ERROR_BUDGET


@dataclass(kw_only=True)
class RunCounts:
    """Inputs, unless another unit is named."""

    listed: int = 0
    repeated: int = 0
    """Listed again, from a source inside another or a line of a manifest, and left out."""
    skipped: int = 0
    """In the table already, for this model and these settings."""
    pending: int = 0
    done: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Failed inputs by code."""
    removed: int = 0
    """Older rows that left the table at the end."""
    orphans: int = 0
    """Files that were deleted because no commit had made them visible."""
    fetched_bytes: int = 0
    stage_seconds: Counter[str] = field(default_factory=Counter)
    """Seconds of all workers together, by stage."""

    def add(self, *, rows: int, failed: list[str], fetched_bytes: int, stage_seconds: dict[str, float]) -> None:
        """One part's ``rows``, with the codes of those that ``failed``."""
        self.failed += len(failed)
        self.done += rows - len(failed)
        self.errors.update(failed)
        self.fetched_bytes += fetched_bytes
        self.stage_seconds.update(stage_seconds)

    def check_budget(self, max_error_rate: float, error_floor: int) -> None:
        """`ErrorBudgetSpent` where more than both the share and the number of errors failed."""
        if self.failed > error_floor and self.failed > max_error_rate * (self.failed + self.done):
            raise ErrorBudgetSpent(
                f"{self.failed} of {self.failed + self.done} inputs failed, more than max_error_rate "
                f"{max_error_rate} allows: {dict(self.errors.most_common(3))}"
            )

    def progress(self) -> str:
        """One line for people."""
        return f"{self.done + self.failed} of {self.pending} inputs, {self.failed} of them failed"

    def summary(self) -> dict[str, Any]:
        """As the run's summary has them."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        rounded = {stage: round(seconds, 3) for stage, seconds in self.stage_seconds.items()}
        return found | {"errors": dict(sorted(self.errors.items())), "stage_seconds": rounded}
