"""Novelty of a document: how far its statistics are from those of the training documents.

A Gaussian is fitted to the statistics (`pipeline.text.statistics`) of training documents. The raw novelty is the
squared distance to its mean. Statistics of short documents vary more, so the percentile of a document is among held-out
documents that are cut to about its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import check
from pipeline.feature_gaussian import FeatureGaussian, fitted, rounded
from pipeline.text.features import SentenceFeatures
from pipeline.text.statistics import DocumentStatistics, WordTable, word_table
from pipeline.text.windows import cut, word_ends

#: The percentile and the raw novelty, as columns of a table.
NOVELTY_COLUMNS = ("novelty", "novelty_raw")
#: Fewer held-out documents give no percentiles.
LEAST_DOCUMENTS = 100
_LENGTHS = (50, 100, 200, 400, 800, 1_600, 3_200, 6_400)  # words to which held-out documents are cut
_STEPS = 200  # between quantiles: half a per cent each
#: Parts of the training documents, each of which is held out once.
FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class DocumentReference:
    """What novelty of documents goes by."""

    table: WordTable
    gaussian: FeatureGaussian
    lengths: tuple[int, ...]
    """Numbers of words to which held-out documents were cut, ascending."""
    quantiles: tuple[tuple[float, ...], ...]
    """For each length, quantiles of the raw novelty of held-out documents, at equal steps of probability."""

    def __post_init__(self) -> None:
        check(self, "lengths", list(self.lengths) == sorted(set(self.lengths)), "be sorted, shortest first")
        check(self, "quantiles", 0 < len(self.quantiles) == len(self.lengths), "have a row for each length")
        is_sorted = all(list(row) == sorted(row) for row in self.quantiles)
        check(self, "quantiles", is_sorted, "be sorted, lowest first")

    def statistics(self, buckets: int, weights: np.ndarray) -> DocumentStatistics:
        """What computes the statistics by which this reference goes, with the ``weights`` of a tagger's words."""
        return DocumentStatistics(self.table, buckets, weights)

    def raw(self, statistics: np.ndarray) -> np.ndarray:
        """The raw novelty, (n,), of documents with these statistics (n, f)."""
        return self.gaussian.raw(statistics)

    def percentile(self, raw: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Percentage of held-out documents of about as many ``words`` (n,) whose raw novelty (n,) is lower.

        Between two lengths it is interpolated over the logarithm of the length.
        """
        place = np.interp(np.log(np.maximum(words, 1)), np.log(self.lengths), np.arange(len(self.lengths)))
        scale = [np.linspace(0, 100, len(row)) for row in self.quantiles]
        ranks = np.stack([np.interp(raw, row, steps) for row, steps in zip(self.quantiles, scale, strict=True)])
        low = np.floor(place).astype(int)
        high, part, index = np.minimum(low + 1, len(ranks) - 1), place - low, np.arange(len(raw))
        return (1 - part) * ranks[low, index] + part * ranks[high, index]


def reference(
    documents: Sequence[SentenceFeatures], groups: Sequence[int], buckets: int, weights: np.ndarray
) -> DocumentReference:
    """Fit a reference to training documents.

    ``groups``: of each document, what it must not be told apart from, such as its book. A quarter of the groups at a
    time is held out, and gets its raw novelty from a table and a Gaussian that are fitted to the others. So all
    documents count for the percentiles. The final table and Gaussian are fitted to all.
    """
    assert len(documents) == len(groups), (len(documents), len(groups))
    usual = int(np.median([len(item.content) for item in documents]))
    # Whole documents stand for their usual length.
    lengths = [*(length for length in _LENGTHS if length < usual), max(1, usual)]
    fold, raw = np.array(groups) % FOLDS, [[] for _ in lengths]
    for held in np.unique(fold) if len(np.unique(fold)) > 1 else ():
        statistics, gaussian = _fitted(
            [documents[place] for place in np.flatnonzero(fold != held).tolist()], buckets, weights
        )
        for item in (documents[place] for place in np.flatnonzero(fold == held).tolist()):
            for found, length in zip(raw, lengths, strict=True):
                if len(item.content) >= length or length == usual:
                    part = item if length == usual else beginning(item, length)
                    found.append(float(gaussian.raw(statistics.of(part)[None])[0]))
    known = [place for place, found in enumerate(raw) if len(found) >= min(LEAST_DOCUMENTS, len(raw[-1]))]
    _, gaussian = _fitted(documents, buckets, weights)
    return DocumentReference(
        table=word_table(list(documents), buckets),
        gaussian=gaussian,
        lengths=tuple(lengths[place] for place in known),
        quantiles=tuple(_quantiles(raw[place]) for place in known),
    )


def _quantiles(raw: list[float]) -> tuple[float, ...]:
    found = np.quantile(raw or [0.0], np.linspace(0, 1, _STEPS + 1))
    return rounded(np.maximum.accumulate(found))


def _fitted(
    documents: Sequence[SentenceFeatures], buckets: int, weights: np.ndarray
) -> tuple[DocumentStatistics, FeatureGaussian]:
    statistics = DocumentStatistics(word_table(list(documents), buckets), buckets, weights)
    return statistics, FeatureGaussian(**fitted(np.stack([statistics.of(item) for item in documents])))


def beginning(document: SentenceFeatures, words: int) -> SentenceFeatures:
    """The first sentences of a document, with about so many words and at least one sentence."""
    count = 1 + int(np.searchsorted(np.cumsum(document.counts), words))
    return cut(document, word_ends(document), 0, min(count, len(document.counts)))
