import math

import numpy as np
import pytest

from benchmarks.measures import bootstrap
from benchmarks.measures.bootstrap import centred, draws, mean_estimate, means, percentiles


def test_draws_are_sets_of_the_same_size():
    times = draws(50, 0, 400)
    assert times.shape == (400, 50)
    assert (times.sum(1) == 50).all()
    assert times.mean(0) == pytest.approx(1, abs=0.25)
    assert times.var() == pytest.approx(1 - 1 / 50, abs=0.05)
    assert (times == draws(50, 0, 400)).all()
    assert (times != draws(50, 1, 400)).any()


def test_means_are_those_of_repeated_rows():
    values, times = np.random.default_rng(0).normal(size=(13, 3)), draws(13, 0, 5)
    slow = np.stack([np.repeat(values, row.astype(int), axis=0).mean(0) for row in times])
    np.testing.assert_allclose(means(times, values), slow)
    # As if there were so many replicates that only few rows fit at a time.
    whole = means(draws(70_000, 1, 300), np.ones((70_000, 2)))
    np.testing.assert_allclose(whole, 1)


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 10_000)
    times = draws(len(values), 0)
    found = mean_estimate(values, times)
    half = 1.96 * values.std() / math.sqrt(10_000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert mean_estimate(values, draws(len(values), 0)) == found
    assert mean_estimate(values, draws(len(values), 1)) != found


def test_ninety_five_of_a_hundred_intervals_hold_the_mean():
    random = np.random.default_rng(2)
    found = [mean_estimate(random.exponential(1, 200), draws(200, seed, 300)) for seed in range(300)]
    assert 0.90 < np.mean([one.low <= 1 <= one.high for one in found]) < 0.985


def test_centred_takes_the_bias_away_and_stays_above_zero():
    replicates = np.linspace(3.0, 5.0, 1001)
    found = centred(2.0, replicates)
    assert found == pytest.approx((2.0, 1.05, 2.95))
    assert percentiles(2.0, replicates) == pytest.approx((2.0, 3.05, 4.95))
    assert centred(0.5, replicates).low == 0


def test_levels_are_stated():
    assert (bootstrap.LEVEL, bootstrap.REPLICATES) == (0.95, 1000)
