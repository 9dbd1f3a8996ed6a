import math

import numpy as np
import pytest

from benchmarks.measures.class_balance import class_entropy, class_kl, class_shares, drawn_shares


def test_shares_entropy_and_kl_by_hand():
    shares = class_shares(np.array([0, 0, 2, 2]), 4)
    assert shares.tolist() == [0.5, 0, 0.5, 0]
    assert class_entropy(shares) == pytest.approx(math.log(2))
    assert class_entropy(np.full(4, 0.25)) == pytest.approx(math.log(4))
    real = np.full(4, 0.25)
    assert class_kl(shares, real, 100) == pytest.approx(math.log(2))
    assert class_kl(real, real, 100) == 0
    # A class that no real image is of counts as half of one.
    missing = np.array([0.0, 0.5, 0.25, 0.25])
    assert class_kl(shares, missing, 100) == pytest.approx(0.5 * math.log(0.5 / 0.005) + 0.5 * math.log(2))


def test_drawn_shares_are_those_of_repeated_labels():
    labels = np.random.default_rng(0).choice(3, 500, p=[0.6, 0.3, 0.1])
    found = drawn_shares(labels, 4, 2000, seed=1)
    shares = class_shares(labels, 4)
    assert found.shape == (2000, 4)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found.mean(0), shares, atol=0.003)
    np.testing.assert_allclose(found.std(0), np.sqrt(shares * (1 - shares) / 500), atol=0.002)
    assert class_entropy(found).shape == class_kl(found, found, 500).shape == (2000,)
