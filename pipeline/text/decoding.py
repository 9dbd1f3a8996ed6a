"""From the scores of sentences to the best set of paragraphs under limits, by dynamic programming."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

# Gains are whole numbers of this part of a nat, so that sums are exact and ties are ties.
_UNITS = 1 << 20
_LEAST_PROBABILITY = 1e-7
#: How many nats of log-odds one unit of the dial's own log-odds is.
_DIAL = 2.0
#: More than any sum of gains, so that the number of violations counts first.
_VIOLATION = 1 << 120
_COUNT = 1 << 32  # more than any number of paragraphs, so that gains count before it


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a set of paragraphs must keep to. Lengths are code points, with the white space at the end."""

    min_chars: int = 0
    max_chars: int | None = None
    granularity: float = 0.5
    """0: every sentence is a paragraph, 1: one paragraph, as far as the lengths allow. 0.5: as the scores say."""

    @property
    def are_lengths_free(self) -> bool:
        return self.min_chars == 0 and self.max_chars is None


def best_begins(starts: np.ndarray, scores: np.ndarray, num_chars: int, threshold: float, limits: Limits) -> np.ndarray:
    """Which sentences begin a paragraph, (s,) bool: the set with the largest gain that keeps to the limits.

    ``starts`` (s,) are the starts of the sentences, beginning with 0, and ``scores`` (s,) probabilities. The gain of a
    boundary is its log-odds less those of the threshold, less 2 logit(granularity). Without limits these are the scores
    of at least the threshold. A sentence that is longer than ``max_chars`` is a paragraph of its own. Where both
    lengths cannot be kept, ``max_chars`` is, and as few paragraphs as possible are shorter than ``min_chars``. Of equal
    sets the one with more paragraphs is taken; so a coarser granularity never gives more paragraphs.
    """
    gains = boundary_gains(scores, threshold) - _dial(limits.granularity)
    if limits.are_lengths_free:
        begins = gains >= 0
    else:
        begins = _best_set(np.append(starts, num_chars).tolist(), gains.tolist(), limits)
    begins[0] = True
    return begins


def boundary_gains(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The gain of each boundary, (s,) int64: not negative exactly where the score is at least the threshold."""
    gains = np.rint((_log_odds(scores) - _log_odds(np.array(threshold))) * _UNITS).astype(np.int64)
    is_chosen = scores >= np.float32(threshold)
    return np.where(is_chosen, np.maximum(gains, 0), np.minimum(gains, -1))


def shifted_scores(scores: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Probabilities (s,) whose log-odds are moved by the shifts (s,), in nats. Without a shift they stay the same."""
    moved = 1 / (1 + np.exp(-(_log_odds(scores) + shifts.astype(np.float64))))
    return np.where(shifts == 0, scores, moved.astype(np.float32))


def _best_set(edges: list[int], gains: list[int], limits: Limits) -> np.ndarray:
    """The best boundaries. ``edges`` are the starts of the sentences and the end of the text.

    ``best[j]`` is the value of the best paragraphs up to edge j: their gains, their number, and the paragraphs that are
    too short, in one number. The paragraph before j begins at an edge in one of two windows, those with a length in the
    limits and those that are too short, whose maxima are kept while both windows move.
    """
    last = len(edges) - 1
    values = [gain * _COUNT + 1 for gain in gains]
    best, came_from = [0] * (last + 1), [0] * (last + 1)
    fitting, short = _WindowMaximum(best), _WindowMaximum(best)
    next_fitting = first = 0
    for here in range(1, last + 1):
        short.add(here - 1)
        while next_fitting < here and edges[here] - edges[next_fitting] >= limits.min_chars:
            fitting.add(next_fitting)
            next_fitting += 1
        short.forget_before(next_fitting)
        # A sentence that is too long is a paragraph of its own.
        while limits.max_chars is not None and first < here - 1 and edges[here] - edges[first] > limits.max_chars:
            first += 1
        fitting.forget_before(first)
        short.forget_before(first)
        choices = [(fitting.value, fitting.place)] if fitting else []
        choices += [(short.value - _VIOLATION, short.place)] if short else []
        value, place = max(choices)
        best[here] = value + (values[here] if here < last else 0)
        came_from[here] = place
    begins = np.zeros(last, bool)
    place = came_from[last]
    while place > 0:
        begins[place] = True
        place = came_from[place]
    return begins


class _WindowMaximum:
    """The largest of some values, while places are added at one end and forgotten at the other."""

    def __init__(self, values: list[int]) -> None:
        self._values = values
        self._places: deque[int] = deque()  # with falling values; the first is the largest

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def place(self) -> int:
        return self._places[0]

    @property
    def value(self) -> int:
        return self._values[self._places[0]]

    def add(self, place: int) -> None:
        while self._places and self._values[self._places[-1]] <= self._values[place]:
            self._places.pop()
        self._places.append(place)

    def forget_before(self, place: int) -> None:
        while self._places and self._places[0] < place:
            self._places.popleft()


def _dial(granularity: float) -> int:
    if granularity in (0.0, 1.0):
        return (1 << 30) * (-1 if granularity == 0.0 else 1)  # beyond every gain
    return round(_DIAL * float(np.log(granularity) - np.log1p(-granularity)) * _UNITS)


def _log_odds(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.log(clipped) - np.log1p(-clipped)
