"""The adjusted Rand index against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.quality.rand_index import adjusted_rand_index, foreground_ari


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, (9, 11))
    found = np.where(random.random((9, 11)) < 0.7, truth * 3, random.integers(0, 6, (9, 11)))
    expected = adjusted_rand_score(truth.ravel(), found.ravel())
    assert adjusted_rand_index(truth, found) == pytest.approx(expected, abs=1e-12)
    inside = truth != 0
    assert foreground_ari(truth, found) == pytest.approx(adjusted_rand_score(truth[inside], found[inside]), abs=1e-12)


def test_the_ends() -> None:
    truth = np.array([[0, 0, 1], [1, 2, 2]])
    assert adjusted_rand_index(truth, truth + 7) == 1
    assert adjusted_rand_index(np.zeros(4, int), np.zeros(4, int)) == 1
    assert adjusted_rand_index(np.array([0, 0, 1, 1]), np.zeros(4, int)) == 0
    assert foreground_ari(truth, np.where(truth == 0, 9, truth)) == 1, "how the background is divided does not count"
    assert foreground_ari(np.zeros((2, 2), int), truth[:, :2]) is None
