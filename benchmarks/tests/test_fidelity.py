import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import make_spd_matrix

from benchmarks.measures.bootstrap import centred, draws
from benchmarks.measures.fidelity import Moments, drawn_frechet, drawn_moments, frechet, moments, prdc


def normal(count, width=3, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


def test_the_frechet_distance_by_hand():
    # Along an axis: (m1 - m2)^2 + (s1 - s2)^2.
    one = Moments(np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    other = Moments(np.array([3.0, 1.0]), np.diag([1.0, 25.0]))
    assert frechet(one, other) == pytest.approx(9 + 1 + 4)
    assert frechet(one, one) == pytest.approx(0, abs=1e-12)
    # A turn of both changes nothing.
    turn = np.linalg.qr(normal(2, 2))[0]
    turned = [Moments(turn @ mean, turn @ covariance @ turn.T) for mean, covariance in (one, other)]
    assert frechet(*turned) == pytest.approx(14)


def test_the_frechet_distance_is_scipys():
    one, other = (Moments(normal(1, 6, seed)[0], make_spd_matrix(6, random_state=seed)) for seed in (1, 2))
    root = scipy.linalg.sqrtm(one.covariance @ other.covariance).real
    wanted = np.square(one.mean - other.mean).sum() + np.trace(one.covariance + other.covariance - 2 * root)
    assert frechet(one, other) == pytest.approx(wanted)
    assert frechet(other, one) == pytest.approx(wanted)


def test_a_direction_without_variance_is_no_nan():
    flat = Moments(np.zeros(2), np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert frechet(flat, Moments(np.zeros(2), np.zeros((2, 2)))) == pytest.approx(2)


def test_drawn_moments_are_those_of_repeated_rows():
    features, times = normal(40, 4, shift=100.0), draws(40, 0, 6)
    found = drawn_moments(features, times)
    for mean, covariance, row in zip(found.mean, found.covariance, times, strict=True):
        slow = moments(np.repeat(features, row.astype(int), axis=0))
        np.testing.assert_allclose(mean, slow.mean)
        np.testing.assert_allclose(covariance, slow.covariance, atol=1e-10)


def test_intervals_of_a_distance_hold_what_sets_of_that_size_give():
    def distance(seed):
        pair = normal(300, 4, seed), normal(300, 4, 10_000 + seed, shift=0.2)
        found = [moments(one) for one in pair]
        times = [drawn_moments(one, draws(300, place, 100)) for place, one in enumerate(pair)]
        return centred(frechet(*found), drawn_frechet(*times)), drawn_frechet(*times).mean()

    wanted = np.mean(
        [frechet(moments(normal(300, 4, s)), moments(normal(300, 4, s + 10_000, 0.2))) for s in range(500)]
    )
    found, drawn = zip(*(distance(seed) for seed in range(100)), strict=True)
    assert np.mean([one.low <= wanted <= one.high for one in found]) > 0.85
    assert np.mean(drawn) > wanted * 1.1, "or there would be no bias to take away"


def slow_prdc(samples, real, k):
    def reach(rows):
        return [
            sorted(np.linalg.norm(row - other) for j, other in enumerate(rows) if j != i)[k - 1]
            for i, row in enumerate(rows)
        ]

    real_reach, made_reach = reach(real), reach(samples)
    inside = [[np.linalg.norm(made - true) <= r for true, r in zip(real, real_reach, strict=True)] for made in samples]
    within = [[np.linalg.norm(made - true) <= r for made, r in zip(samples, made_reach, strict=True)] for true in real]
    precision = [any(row) for row in inside]
    density = [sum(row) / k for row in inside]
    coverage = [any(row[i] for row in inside) for i in range(len(real))]
    return precision, density, [any(row) for row in within], coverage


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("pieces", [2**23, 100])
def test_prdc_is_the_slow_loop(shift, k, pieces, monkeypatch):
    monkeypatch.setattr("benchmarks.measures.neighbours._VALUES", pieces)
    samples, real = normal(45, 2, 1, shift), normal(60, 2, 2)
    for mine, wanted in zip(prdc(samples, real, k), slow_prdc(samples, real, k), strict=True):
        np.testing.assert_allclose(mine, wanted)
    if shift == 30:
        assert not any(part.any() for part in prdc(samples, real, k))


def test_prdc_of_equal_distributions_is_what_theory_says():
    found = prdc(normal(2000, 4, 1), normal(2000, 4, 2), k=5)
    assert found.density.mean() == pytest.approx(1, abs=0.06)
    assert found.coverage.mean() == pytest.approx(1 - 2**-5, abs=0.02)


def test_copies_of_real_images_are_on_the_edge_and_inside():
    real = normal(200, 3) * 7 + 1000
    found = prdc(real.copy(), real, k=5)
    # Each ball holds its centre, and its k neighbours, the outermost on its edge.
    assert found.density.mean() == pytest.approx(6 / 5)
    assert found.precision.all()
    assert found.recall.all()
    assert found.coverage.all()


def test_a_collapsed_set_is_precise_and_covers_little():
    real = normal(500, 3)
    found = prdc(real[:1] + normal(500, 3, 1) * 0.01, real)
    assert found.precision.mean() == 1
    assert found.recall.mean() < 0.05
    assert found.coverage.mean() < 0.1
