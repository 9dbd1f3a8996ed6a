"""Files in a source that are no inputs by their names: how many, and with which endings."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable

_ENDING = re.compile(r"[^/]\.([0-9A-Za-z_~-]{1,12})\Z")
_MOST_KINDS = 50
NO_ENDING, OTHERS = "no ending", "other endings"


class PassedOver:
    """Counts files by their endings. Threads may add to it at the same time."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, names: Iterable[str]) -> None:
        """Count files by their names or URIs."""
        endings = Counter(
            f".{found[1].lower()}" if (found := _ENDING.search(name)) is not None else NO_ENDING for name in names
        )
        with self._lock:
            for ending, count in endings.items():
                room = ending in self._counts or len(self._counts) < _MOST_KINDS
                self._counts[ending if room else OTHERS] += count

    def by_ending(self) -> dict[str, int]:
        """The numbers of files by ending, the most frequent first."""
        with self._lock:
            return dict(self._counts.most_common())

    def __str__(self) -> str:
        counts = self.by_ending()
        shown = ", ".join(f"{count} {ending}" for ending, count in list(counts.items())[:10])
        return f"{sum(counts.values())} files are passed over, since their names do not end as those of inputs: {shown}"
