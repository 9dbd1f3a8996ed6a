"""The committer: decides which parts belong to the table, and commits them.

Each part names the ordinals of its inputs. An ordinal is accepted once: a part that has an accepted ordinal is refused,
since it comes from another attempt at the same block.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.runs.counts import RunCounts
from pipeline.storage.threads import ordered
from pipeline.table.delta import Table
from pipeline.table.parts import THREADS, Part


class Committer:
    """The accepted parts of one run. They wait until `commit`."""

    def __init__(self, table: Table, counts: RunCounts, *, model: str, run_id: str, inputs: int) -> None:
        """``inputs``: number of ordinals, that is of listed inputs."""
        self._table, self._counts, self._model, self._run_id = table, counts, model, run_id
        self._waiting: list[tuple[Part, dict[str, Any]]] = []
        self._is_unsure = False  # whether a commit was interrupted
        self.committed_rows = 0
        """Number of rows that `commit` has committed."""
        self.accepted = np.zeros(inputs, bool)
        """For each ordinal, whether it is in an accepted part."""

    @property
    def is_waiting(self) -> bool:
        """Whether accepted parts are waiting to be committed."""
        return bool(self._waiting)

    def missing(self, pending: int) -> int:
        """Number of the ``pending`` inputs that are in no accepted part."""
        return pending - int(self.accepted.sum())

    def accept(self, receipt: dict[str, Any], stages: tuple[str, ...]) -> bool:
        """Accept a part, or return False to refuse it. ``receipt`` has the columns `distributed.stages.RECEIPT`."""
        ordinals = np.asarray(receipt["ordinals"])
        if self.accepted[ordinals].any() or len(np.unique(ordinals)) < len(ordinals):
            return False
        self.accepted[ordinals] = True
        part = Part(path=receipt["path"], size=receipt["size"], rows=receipt["rows"], model=self._model)
        self._waiting.append((part, receipt))
        self._counts.add(
            rows=receipt["rows"],
            failed=receipt["failed"],
            unusual=receipt["unusual"],
            fetched_bytes=receipt["bytes"],
            stage_seconds={stage: receipt[f"{stage}_s"] for stage in stages},
        )
        return True

    def keep_only(self, accepted: np.ndarray, errors: Counter[str]) -> None:
        """Forget the parts whose files another tool has deleted. ``accepted``: for each ordinal, whether its row is
        left; ``errors``: how many of those have failed, by code."""
        self.accepted = accepted
        self._counts.restart(rows=int(accepted.sum()), errors=errors)

    def commit(self) -> int:
        """Commit the waiting parts in one transaction. Returns how many of them are not there and were refused.

        Parts that another tool has deleted meanwhile are refused; their inputs count as not processed.
        """
        waiting = self._waiting
        if self._is_unsure:
            known = self._table.newest_paths()
            waiting = [item for item in waiting if item[0].path not in known]
        if not waiting:
            self._waiting, self._is_unsure = [], False
            return 0
        self._is_unsure = True  # a signal may interrupt what follows, and the commit then has landed or not
        there = list(ordered(self._is_there, (part for part, _ in waiting), THREADS))
        parts = [part for (part, _), found in zip(waiting, there, strict=True) if found]
        if parts:
            self._table.commit(parts, run_id=self._run_id)
            self.committed_rows += sum(part.rows or 0 for part in parts)
        self._waiting, self._is_unsure = [], False
        for (_, receipt), found in zip(waiting, there, strict=True):
            if not found:
                self.accepted[np.asarray(receipt["ordinals"])] = False
                self._counts.take_back(rows=receipt["rows"], failed=receipt["failed"])
        return len(waiting) - len(parts)

    def _is_there(self, part: Part) -> bool:
        try:
            return storage.stat(part.uri(self._table.uri)).size == part.size
        except FileNotFoundError:
            return False
