import numpy as np
import pytest

from benchmarks.measures.duplicates import birthday_support, drawn_pairs, duplicates, memory


def normal(count, seed, width=8):
    return np.random.default_rng(seed).normal(size=(count, width))


def test_real_images_have_as_many_duplicates_as_the_quantile_says():
    found = duplicates(normal(3000, 0), normal(3000, 1), 0.05)
    assert found.near.mean() == pytest.approx(0.05, abs=0.02)
    again = duplicates(normal(3000, 1), normal(3000, 1), 0.05)
    assert again.near.mean() == pytest.approx(0.05, abs=1e-3)
    assert (again.close == again.close_real).all()


def test_planted_copies_are_found():
    samples = normal(1000, 0)
    samples[:100] = samples[500:600] + 1e-6
    found = duplicates(samples, normal(1000, 1))
    planted = np.r_[0:100, 500:600]
    assert found.near[planted].all()
    assert found.near.mean() == pytest.approx(0.2 + 0.8 * 0.01, abs=0.01)
    assert found.close[planted].min() == 1


def test_copies_count_also_where_real_images_are_alike():
    """A threshold of zero is no threshold: nothing is nearer than a copy."""
    real = np.repeat(normal(50, 1), 2, axis=0)
    assert duplicates(real, real).threshold == 0
    assert not duplicates(real, real).near.any()


def test_the_birthday_support_by_hand():
    # 23 people, 253 pairs: one same birthday is 253 days' worth.
    assert birthday_support(1, 23) == 253
    assert birthday_support(2, 23) == 126.5
    assert birthday_support(0, 23) == 253, "a lower bound"


def test_the_support_of_a_finite_set_is_found():
    places = normal(400, 3)
    random = np.random.default_rng(4)
    samples = places[random.integers(0, 400, 2000)]
    found = duplicates(samples, normal(2000, 5))
    assert found.close_real.mean() < 0.05
    assert birthday_support(found.close.sum() / 2, 2000) == pytest.approx(400, rel=0.1)


def test_the_spread_of_drawn_pairs_is_that_of_new_sets():
    """A skewed set of 50, where the chance of a pair depends on what it is: the first term of the decomposition."""
    random = np.random.default_rng(0)
    chances = np.r_[np.full(5, 0.1), np.full(45, 0.5 / 45)]

    def close():
        drawn = random.choice(50, 600, p=chances)
        return np.bincount(drawn, minlength=50)[drawn] - 1

    spread = np.std([close().sum() / 2 for _ in range(500)])
    one = close()
    mean_close = np.array([random.choice(one, 600).mean() for _ in range(1000)])
    pairs = drawn_pairs(one, mean_close)
    assert pairs.std() == pytest.approx(spread, rel=0.15)
    assert pairs.mean() == pytest.approx(one.sum() / 2, rel=0.02)
    assert drawn_pairs(np.array([4, 0, 0, 0]), np.zeros(3)).tolist() == [0, 0, 0]


def test_memory_tells_copies_and_nothing_else():
    training, held_out, fresh = normal(800, 0), normal(800, 1), normal(800, 2)
    none = memory(fresh, training, held_out)
    assert none.nearer.mean() == pytest.approx(0.5, abs=0.06)
    assert none.training.mean() / none.held_out.mean() == pytest.approx(1, abs=0.02)
    some = memory(np.r_[fresh[:400], training[:400]], training, held_out)
    assert some.nearer[400:].tolist() == [1] * 400
    assert (some.training[400:] == 0).all()
    assert some.nearer.mean() > 0.7
    assert memory(held_out, training, held_out).nearer.tolist() == [0] * 800
    assert memory(fresh, training, training).nearer.tolist() == [0.5] * 800


def test_sets_of_different_sizes_cannot_be_compared():
    with pytest.raises(AssertionError, match="one size"):
        memory(normal(5, 0), normal(5, 1), normal(6, 2))
    with pytest.raises(AssertionError, match="one size"):
        duplicates(normal(5, 0), normal(6, 1))
