"""Metrics of paragraph boundaries: Pk, WindowDiff, boundary similarity, precision, recall and F1.

A segmentation of n units (sentences) is given by its boundaries, bool (n - 1,): element i is True if a segment ends
after unit i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of boundaries: found and true, found but not true, true but not found. Counts of documents add up."""

    hits: int = 0
    extra: int = 0
    missed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(hits=self.hits + other.hits, extra=self.extra + other.extra, missed=self.missed + other.missed)

    @property
    def precision(self) -> float:
        """Fraction of the boundaries found that are true; 1 if none was found."""
        return _ratio(self.hits, self.hits + self.extra)

    @property
    def recall(self) -> float:
        """Fraction of the true boundaries that were found; 1 if there is none."""
        return _ratio(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.hits, 2 * self.hits + self.extra + self.missed)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well the paragraphs of one document were found. `summarize` takes many of them together."""

    counts: Counts
    trivial: Counts
    """Of the trivial answer that every sentence begins a paragraph."""
    pk: float
    window_diff: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`Score` of many documents: sums of counts, and macro averages, in which every document weighs the same."""

    documents: int
    counts: Counts
    trivial: Counts
    macro_f1: float
    macro_f1_trivial: float
    pk: float
    window_diff: float


def score(true_starts: Sequence[int], found_starts: Sequence[int], sentence_starts: Sequence[int]) -> Score:
    """One document's score, from the offsets at which its paragraphs and its sentences begin, ascending."""
    reference, found = (boundaries_of(sentence_starts, starts) for starts in (true_starts, found_starts))
    return Score(
        counts=count_boundaries(true_starts, found_starts),
        trivial=count_boundaries(true_starts, sentence_starts),
        pk=pk(reference, found),
        window_diff=window_diff(reference, found),
    )


def summarize(scores: Sequence[Score]) -> Summary:
    """Averages of no documents are not a number."""
    return Summary(
        documents=len(scores),
        counts=sum((item.counts for item in scores), Counts()),
        trivial=sum((item.trivial for item in scores), Counts()),
        macro_f1=mean(item.counts.f1 for item in scores),
        macro_f1_trivial=mean(item.trivial.f1 for item in scores),
        pk=mean(item.pk for item in scores),
        window_diff=mean(item.window_diff for item in scores),
    )


def boundaries_of(unit_starts: Sequence[int], segment_starts: Iterable[int]) -> np.ndarray:
    """Boundaries, bool (n - 1,), of segments whose starts are offsets, for units with ascending starts (n,).

    A segment that begins inside a unit is counted from the next unit on. If there is no next unit, it is ignored.
    """
    places = np.searchsorted(np.asarray(unit_starts), np.fromiter(segment_starts, np.int64))
    flags = np.zeros(len(unit_starts) + 1, bool)
    flags[places] = True
    return flags[1 : len(unit_starts)]


def count_boundaries(reference: Iterable[int], found: Iterable[int]) -> Counts:
    """Compare starts of true and of found paragraphs, as offsets. The first of each, the document's, does not count."""
    truth, answer = set(sorted(reference)[1:]), set(sorted(found)[1:])
    hits = len(truth & answer)
    return Counts(hits=hits, extra=len(answer) - hits, missed=len(truth) - hits)


def window_size(reference: np.ndarray) -> int:
    """Window size k of Pk and WindowDiff: half the mean length of a true segment, rounded half to even, at least 2."""
    return max(2, round((len(reference) + 1) / (int(reference.sum()) + 1) / 2))


def pk(reference: np.ndarray, found: np.ndarray, k: int | None = None) -> float:
    """Pk (Beeferman et al. 1999), in [0, 1], lower is better; 0 if there are at most k units.

    It is the probability that for two units k apart, the answer whether they are in the same segment is wrong.
    """
    truth, answer = _crossed(reference, found, k)
    return float(((truth > 0) != (answer > 0)).mean()) if len(truth) else 0.0


def window_diff(reference: np.ndarray, found: np.ndarray, k: int | None = None) -> float:
    """WindowDiff (Pevzner and Hearst 2002), in [0, 1], lower is better; 0 if there are at most k units.

    It is the probability that the number of boundaries between two units k apart is wrong.
    """
    truth, answer = _crossed(reference, found, k)
    return float((truth != answer).mean()) if len(truth) else 0.0


def boundary_similarity(reference: np.ndarray, found: np.ndarray, near: int = 2) -> float:
    """Boundary similarity B (Fournier 2013), in [0, 1], higher is better; 1 if neither has a boundary.

    Boundaries at the same place match. One of the reference and one of the answer that are less than ``near`` places
    apart are a near miss, which counts as a pair and loses its distance / ``near``. Every other boundary is wrong. B is
    1 minus what is lost over the number of matches, near misses and wrong boundaries.
    """
    assert len(reference) == len(found), (len(reference), len(found))
    matches = int((reference & found).sum())
    truth, answer = (np.flatnonzero(flags & ~other) for flags, other in ((reference, found), (found, reference)))
    distances = _near_misses(truth.tolist(), answer.tolist(), near)
    wrong = len(truth) + len(answer) - 2 * len(distances)
    pairs = matches + len(distances) + wrong
    return 1 - (wrong + sum(distances) / near) / pairs if pairs else 1.0


def _near_misses(truth: list[int], answer: list[int], near: int) -> list[int]:
    """The distances of the near misses, nearest first and from left to right; each boundary is in one at most."""
    distances, free = [], (set(truth), set(answer))
    for distance in range(1, near):
        for place in sorted(free[0] | free[1]):
            for one, other in (free, free[::-1]):
                if place in one and place + distance in other:
                    one.remove(place)
                    other.remove(place + distance)
                    distances.append(distance)
                    break
    return distances


def mean(values: Iterable[float]) -> float:
    """Macro average over documents; NaN if there are none."""
    listed = list(values)
    return float(np.mean(listed)) if listed else float("nan")


def _crossed(reference: np.ndarray, found: np.ndarray, k: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Number of boundaries between units i and i + k, for every i, in both segmentations."""
    assert len(reference) == len(found), (len(reference), len(found))
    size = window_size(reference) if k is None else k
    assert size >= 1, size
    sums = [np.append(0, np.cumsum(flags)) for flags in (reference, found)]
    truth, answer = (total[size:] - total[:-size] for total in sums)
    return truth, answer


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
