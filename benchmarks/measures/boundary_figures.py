"""Figures of boundaries in many documents, with intervals by drawing the documents again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from benchmarks.measures.bootstrap import Estimate, draws, mean_estimate, means, percentiles
from benchmarks.measures.document_sets import Document
from pipeline.text.metrics import boundaries_of, boundary_similarity, count_boundaries, pk, window_diff

#: The names of `estimates`. ``f1``: of all boundaries of all documents together; the others are means over documents.
MEASURES = ("f1", "f1 of documents", "pk", "window_diff", "boundary_similarity")
_SEED = 0


def figures(document: Document, found: Sequence[int]) -> list[float]:
    """Hits, extra and missed boundaries, F1, Pk, WindowDiff and boundary similarity of one document.

    ``found`` are the offsets at which its parts begin. F1 compares offsets; the others have its sentences as units.
    """
    counts = count_boundaries(document.starts, found)
    truth, answer = (boundaries_of(document.units, starts) for starts in (document.starts, found))
    return [
        *(counts.hits, counts.extra, counts.missed),
        *(counts.f1, pk(truth, answer), window_diff(truth, answer), boundary_similarity(truth, answer)),
    ]


def estimates(rows: Float[np.ndarray, "n 7"], seed: int = _SEED) -> dict[str, Estimate]:
    """Each of `MEASURES` over the `figures` of n documents, with its interval.

    Chapters of one book are drawn as if they were independent, so intervals of few books are too narrow.
    """
    times = draws(len(rows), seed)
    sums = means(times, rows[:, :3])
    found = {"f1": percentiles(float(_f1(rows[:, :3].mean(0))), _f1(sums))}
    return found | {name: mean_estimate(rows[:, place], times) for place, name in enumerate(MEASURES[1:], 3)}


def f1_margin(rows: Float[np.ndarray, "n 7"], others: Float[np.ndarray, "n 7"], seed: int = _SEED) -> Estimate:
    """F1 of one method less that of another on the same documents, which are drawn in pairs."""
    times = draws(len(rows), seed)
    value = float(_f1(rows[:, :3].mean(0)) - _f1(others[:, :3].mean(0)))
    return percentiles(value, _f1(means(times, rows[:, :3])) - _f1(means(times, others[:, :3])))


def _f1(counts: Float[np.ndarray, "*r 3"]) -> Float[np.ndarray, "*r"]:
    """F1 from mean numbers of hits, extra and missed boundaries; 1 where there are none of them."""
    hits, extra, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    whole = 2 * hits + extra + missed
    return np.where(whole > 0, 2 * hits / np.where(whole > 0, whole, 1), 1.0)
