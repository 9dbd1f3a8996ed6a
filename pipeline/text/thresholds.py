"""From which score on a sentence begins a paragraph, chosen for each document."""

from __future__ import annotations

import numpy as np

_EXACT_SENTENCES = 32
_NODES = 7
_LEAST_PROBABILITY = 1e-7
#: Standard deviation of the unknown offset of a strange document's log-odds, and what they are multiplied by. Of the
#: rules that left no book below the guess "every sentence", this one had the best F1
#: (`python -m benchmarks.thresholds`, where each document counts as strange).
OFFSET_STD = 1.5
SLOPE = 0.7


def document_threshold(scores: np.ndarray, novelty: float | None) -> float:
    """`best_threshold` of a document with this ``novelty``, a percentile: the larger it is, the less its scores are
    taken as they are. A document whose novelty is unknown counts as strange."""
    share = 1.0 if novelty is None else min(max(novelty, 0.0), 100.0) / 100
    return best_threshold(scores, share * OFFSET_STD, 1 - share * (1 - SLOPE))


def best_threshold(scores: np.ndarray, offset_std: float = OFFSET_STD, slope: float = SLOPE) -> float:
    """The threshold with the best expected F1 for one document with these scores (s,).

    If the probabilities p of boundaries are known, the F1 of the k likeliest is about 2 sum(p) / (k + sum of all p),
    and the k with the largest F1 is used (Lipton et al. 2014, Optimal Thresholding of Classifiers to Maximize F1
    Measure). For short documents, where this approximation is bad, the expected F1 is computed exactly.

    They are not known: how often a paragraph begins is a matter of the author, and a document unlike the training
    documents has scores that are too low or too high throughout, and too far apart. So the log-odds of the scores are
    multiplied by ``slope``, and an offset is added that is the same for all sentences, normal with mean 0 and standard
    deviation ``offset_std``. The F1 is averaged over the offset. Where the scores tell little, the answer is many
    boundaries: they cost little where there are few, and gain much where there are many.

    If the probability that there is no boundary at all is larger than the best F1, no boundary is chosen.
    """
    likely = np.sort(scores[1:])[::-1]
    if not len(likely):
        return 1.0
    probabilities, weights = offset_probabilities(likely, offset_std, slope)
    if len(likely) <= _EXACT_SENTENCES:
        expected = weights @ _expected_f1(probabilities)
    else:
        ranks = np.arange(1, len(likely) + 1)
        expected = weights @ (2 * probabilities.cumsum(1) / (ranks + probabilities.sum(1, keepdims=True)))
    best = int(expected.argmax())
    if weights @ np.prod(1 - probabilities, axis=1) > expected[best]:
        return float(np.nextafter(np.float32(likely[0]), np.float32(2)))
    return float(likely[best])


def offset_probabilities(likely: np.ndarray, offset_std: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (q, n) of the boundaries for each offset of a Gauss-Hermite quadrature, and its weights (q,)."""
    clipped = np.clip(likely.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    if offset_std == 0 and slope == 1:
        return clipped[None], np.ones(1)
    offsets, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    log_odds = slope * (np.log(clipped) - np.log1p(-clipped)) + offset_std * offsets[:, None]
    return 1 / (1 + np.exp(-log_odds)), weights / weights.sum()


def _expected_f1(likely: np.ndarray) -> np.ndarray:
    """The exact expected F1, (q, n), of the k likeliest boundaries, k = 1 to n, if the probabilities (q, n) of each row
    are independent."""
    rows, size = likely.shape
    hits = _number_distributions(likely)  # of the number of true boundaries among the first k
    rest = _number_distributions(likely[:, ::-1])  # the same among the last k
    expected = np.empty((rows, size))
    for k in range(1, size + 1):
        hit, missed = np.arange(k + 1)[:, None], np.arange(size - k + 1)[None]
        gain = 2 * hit / (k + hit + missed)
        expected[:, k - 1] = ((hits[k] @ gain) * rest[size - k]).sum(1)
    return expected


def _number_distributions(likely: np.ndarray) -> list[np.ndarray]:
    """For each k from 0 to n: the distribution of the number of events among the first k, (q, k + 1)."""
    found = [np.ones((len(likely), 1))]
    for column in likely.T:
        before, chance = found[-1], column[:, None]
        after = np.zeros((len(likely), before.shape[1] + 1))
        after[:, :-1] = before * (1 - chance)
        after[:, 1:] += before * chance
        found.append(after)
    return found
