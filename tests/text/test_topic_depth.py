"""Paragraphs by the depth of places: worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.text.topic_depth import DepthConfig, depth_scores, depths, divergences, scores, smoothed


def test_depth_is_the_height_above_both_valleys() -> None:
    # At 3: 5 - 1 to the left and 5 - 2 to the right. At 0 there is only the right side.
    found = depth_scores(np.array([3.0, 1.0, 4.0, 5.0, 2.0, 2.5]))
    assert found.tolist() == [2.0, 0.0, 3.0 + 0.0, 4.0 + 3.0, 0.0, 0.5]
    assert depth_scores(np.array([])).tolist() == []


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    assert smoothed(np.array([3.0, 0.0, 6.0]), 1).tolist() == [1.5, 3.0, 3.0]
    assert smoothed(np.array([3.0, 0.0]), 0).tolist() == [3.0, 0.0]


def test_divergence_of_single_sentences_is_that_of_their_gaussians() -> None:
    # KL(N(0,1) || N(1,2)) + KL(N(1,2) || N(0,1)) = (ln sqrt 2 + 2/4 - 1/2) + (-ln sqrt 2 + 3/2 - 1/2)
    found = divergences(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]), 1)
    assert found == pytest.approx([0.5 * (1 + 1) / 2 + 0.5 * (2 + 1) / 1 - 1])


def test_a_block_has_the_moments_of_its_mixture() -> None:
    # Before place 2: means 0 and 2, variance 1 each, so mean 1 and variance 2. Behind it: the same moments.
    mean, variance = np.array([[0.0], [2.0], [1.0], [1.0]]), np.array([[1.0], [1.0], [2.0], [2.0]])
    assert divergences(mean, variance, 2)[1] == pytest.approx(0.0)
    assert divergences(mean, variance, 9)[1] == pytest.approx(0.0)


def test_a_change_of_topic_has_the_highest_score() -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(20, 8)) * 0.2
    mean[10:] += 2
    config = DepthConfig()
    found = scores(depths(mean, np.ones((20, 8)), config), (0.1, 0.1), config)
    assert found.shape == (20,)
    assert found[0] == 1
    assert found[1:].argmax() + 1 == 10
    assert ((found >= 0) & (found <= 1)).all()


def test_a_document_of_one_sentence_has_one_score() -> None:
    config = DepthConfig()
    assert scores(depths(np.zeros((1, 4)), np.ones((1, 4)), config), (0.0, 1.0), config).tolist() == [1.0]
