"""Whether latents of sentences tell more of paragraph boundaries than words do: a linear probe with and without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sparse
from sklearn.linear_model import SGDClassifier

from pipeline.text.features import SentenceFeatures

_PASSES = 12
_STRENGTH = 1e-5  # of the regularisation


def words_of(features: SentenceFeatures, buckets: int) -> sparse.csr_matrix:
    """What a tagger knows of each sentence, as a sparse row: its words, the hashed features of its form and of its
    neighbours, and its numbers."""
    count = len(features.counts)
    sentence = np.repeat(np.arange(count), features.counts)
    ones = np.ones(len(sentence), np.float32)
    content = sparse.csr_matrix((ones, (sentence, features.content)), (count, buckets))
    content.data = np.minimum(content.data, 1)
    place = np.repeat(np.arange(count), features.frame.shape[1])
    frame = sparse.csr_matrix((np.ones(len(place), np.float32), (place, features.frame.ravel())), (count, buckets))
    return sparse.csr_matrix(sparse.hstack([content, frame, sparse.csr_matrix(features.dense)]))


def latents_of(mean: np.ndarray) -> np.ndarray:
    """The latents of each sentence (s, d), of the one before and the next, and how far it is from the one before, by
    latent: (s, 4d)."""
    before, behind = np.roll(mean, 1, axis=0), np.roll(mean, -1, axis=0)
    before[0], behind[-1] = 0, 0
    return np.concatenate([mean, before, behind, np.abs(mean - before)], axis=1)


def probe_f1(
    training: Sequence[tuple[sparse.csr_matrix, np.ndarray]], held_out: Sequence[tuple[sparse.csr_matrix, np.ndarray]]
) -> float:
    """F1 of boundaries in held-out documents by a logistic regression, at the threshold that is best for them.

    Documents are pairs: features (s, n), and which sentences begin a paragraph (s,) bool. The first does not count.
    """
    classifier = SGDClassifier(loss="log_loss", alpha=_STRENGTH, max_iter=_PASSES, average=True, random_state=0)
    classifier.fit(*_joined(training))
    inputs, labels = _joined(held_out)
    hits = np.cumsum(labels[np.argsort(-classifier.decision_function(inputs))])
    return float((2 * hits / (np.arange(1, len(hits) + 1) + labels.sum())).max())


def _joined(documents: Sequence[tuple[sparse.csr_matrix, np.ndarray]]) -> tuple[sparse.csr_matrix, np.ndarray]:
    rows = sparse.csr_matrix(sparse.vstack([features[1:] for features, _ in documents]))
    return rows, np.concatenate([labels[1:] for _, labels in documents])
