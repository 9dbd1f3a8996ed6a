"""Counts of a run. They are correct at any moment, and become part of its summary."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ERROR_BUDGET, NOT_FOR_THE_TASK, JobFailed


class ErrorBudgetSpent(JobFailed):
    """More inputs have failed than ``max_error_rate`` allows."""

    status = "error budget spent"
    exit_code = ERROR_BUDGET


@dataclass(kw_only=True)
class RunCounts:
    """Counts of a run; they are numbers of inputs if not stated otherwise."""

    listed: int = 0
    repeated: int = 0
    """Inputs that were listed again, for example by two overlapping sources, and left out."""
    skipped: int = 0
    """Inputs that have a row in the table already, for this model and these settings."""
    pending: int = 0
    done: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Failed inputs by error code."""
    unusual: Counter[str] = field(default_factory=Counter)
    """Inputs about which something is unusual, by what it is (`Task.unusual`)."""
    removed: int = 0
    """Superseded rows that were removed from the table at the end."""
    remade: int = 0
    """Pending inputs that an earlier run had finished, and whose rows another tool has deleted."""
    orphans: int = 0
    """Part files that were never committed and were deleted."""
    fetched_bytes: int = 0
    stage_seconds: Counter[str] = field(default_factory=Counter)
    """Seconds of each stage, summed over all workers."""

    def add(
        self,
        *,
        rows: int,
        failed: list[str],
        fetched_bytes: int,
        stage_seconds: dict[str, float],
        unusual: Sequence[str] = (),
    ) -> None:
        """Count the ``rows`` of a part; ``failed`` are the error codes of its failed rows."""
        self.unusual.update(unusual)
        self.failed += len(failed)
        self.done += rows - len(failed)
        self.errors.update(failed)
        self.fetched_bytes += fetched_bytes
        self.stage_seconds.update(stage_seconds)

    def take_back(self, *, rows: int, failed: list[str]) -> None:
        """Undo `add` for a part that was refused after all."""
        self.failed -= len(failed)
        self.done -= rows - len(failed)
        self.errors = self.errors - Counter(failed)

    def restart(self, *, rows: int, errors: Counter[str]) -> None:
        """Count only the ``rows`` that are left, since another tool has deleted the others; ``errors`` by code."""
        self.failed = errors.total()
        self.done = rows - self.failed
        self.errors = Counter(errors)

    def check_budget(self, max_error_rate: float, error_floor: int) -> None:
        """Raise `ErrorBudgetSpent` if the failed inputs exceed both the fraction and the number. Inputs that are not
        for the task count neither as failed nor as done."""
        counted = Counter({code: count for code, count in self.errors.items() if code not in NOT_FOR_THE_TASK})
        failed = self.failed - (self.errors.total() - counted.total())
        if failed > error_floor and failed > max_error_rate * (failed + self.done):
            raise ErrorBudgetSpent(
                f"{failed} of {failed + self.done} inputs failed, more than max_error_rate "
                f"{max_error_rate} allows: {dict(counted.most_common(3))}"
            )

    def progress(self) -> str:
        """The progress in one line, for people."""
        return f"{self.done + self.failed} of {self.pending} inputs, {self.failed} of them failed"

    def summary(self) -> dict[str, Any]:
        """The counts as they are in the run's summary."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        rounded = {stage: round(seconds, 3) for stage, seconds in self.stage_seconds.items()}
        by_name = {name: dict(sorted(getattr(self, name).items())) for name in ("errors", "unusual")}
        return found | by_name | {"stage_seconds": rounded}
