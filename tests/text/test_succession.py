"""The autoregression of latents."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import RequestError
from pipeline.text.succession import Succession, fit_succession


def test_it_finds_how_latents_follow() -> None:
    rng = np.random.default_rng(0)
    matrix, offset = np.array([[0.8, 0.1], [0.0, -0.5]]), np.array([0.3, -0.2])
    latents = [np.zeros(2)]
    for _ in range(20_000):
        latents.append(offset + matrix @ latents[-1] + rng.normal(size=2) * (0.5, 0.2))
    means = np.stack(latents)
    found = fit_succession([(means[:9_000], np.full((9_000, 2), 0.09)), (means[9_000:], np.full((11_001, 2), 0.09))], 2)
    assert np.array(found.matrix) == pytest.approx(matrix, abs=0.03)
    assert np.array(found.offset) == pytest.approx(offset, abs=0.02)
    noise = np.array(found.noise)
    # What the means leave over, and the variance of the posteriors.
    assert noise @ noise.T == pytest.approx(np.diag([0.25 + 0.09, 0.04 + 0.09]), abs=0.02)
    assert found.following(np.array([1.0, 2.0]), np.zeros(2)) == pytest.approx(offset + matrix @ [1.0, 2.0], abs=0.08)


def test_without_neighbours_it_is_the_prior() -> None:
    found = fit_succession([(np.ones((1, 2)), np.ones((1, 2)))], 2)
    assert (found.offset, found.matrix, found.noise) == ((0, 0), ((0, 0), (0, 0)), ((1, 0), (0, 1)))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match=r"Succession\.noise must be 1 rows of 1 numbers"):
        Succession(offset=(0.0,), matrix=((1.0,),), noise=((1.0, 2.0),))
