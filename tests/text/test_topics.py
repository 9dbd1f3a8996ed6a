"""What lasts of latents: against Gaussians worked out in full, and found in made documents."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pipeline.config import from_dict, to_dict
from pipeline.errors import RequestError
from pipeline.text.topic_depth import DepthConfig, depths
from pipeline.text.topics import Topics, fit_topics


def test_changes_are_the_ratio_of_both_densities_of_all_sentences() -> None:
    """The density of five sentences with one topic, and of two and three sentences with two, without any means."""
    topics = Topics(centre=(0.5, -1.0), directions=((1.0, 0.5), (0.0, 2.0)), strengths=(0.7, 3.0))
    latents = np.random.default_rng(0).normal(size=(5, 2))
    x = (latents - np.array([0.5, -1.0])) @ np.array([[1.0, 0.5], [0.0, 2.0]]).T
    expected = 0.0
    for column, strength in zip(x.T, topics.strengths, strict=True):
        one = np.eye(5) + strength
        two = np.eye(5)
        two[:2, :2] += strength
        two[2:, 2:] += strength
        densities = [multivariate_normal(np.zeros(5), covariance).logpdf(column) for covariance in (two, one)]
        expected += densities[0] - densities[1]
    assert topics.changes(latents, 5)[1] == pytest.approx(expected)
    assert topics.changes(latents[1:4], 1)[0] == pytest.approx(topics.changes(latents, 1)[1])


def test_what_lasts_is_found_without_labels_and_tells_changes_of_topic() -> None:
    random = np.random.default_rng(0)

    def document() -> np.ndarray:
        """Ten topics of 8 sentences in the first of 6 latents; the others are larger, and each sentence's own."""
        own = random.normal(size=(80, 6)) * 3
        own[:, 0] = random.normal(size=80) + np.repeat(random.normal(size=10), 8) * 2
        return own

    runs = [document() for _ in range(40)]
    topics = fit_topics(runs, 6)
    first = np.abs(np.array(topics.directions))[0]
    assert first.argmax() == 0
    assert first[0] > 20 * np.abs(first[1:]).max()
    assert topics.strengths[0] > 5 * max((0.0, *topics.strengths[1:]))
    latents = runs[0]
    by_topics, by_all = (
        depths(latents, np.ones_like(latents), DepthConfig(compare=how), topics) for how in ("topics", "divergence")
    )
    changes = np.arange(7, 79, 8)
    others = np.setdiff1d(np.arange(79), changes)
    assert by_topics[changes].mean() > 3 * by_topics[others].mean()
    assert by_topics[changes].mean() / by_topics[others].mean() > by_all[changes].mean() / by_all[others].mean()
    assert from_dict(Topics, to_dict(topics)) == topics


@pytest.mark.parametrize("runs", [[], [np.zeros((1, 4))], [np.zeros((9, 4))], [np.ones((3, 4)), np.ones((0, 4))]])
def test_where_nothing_lasts_nothing_changes(runs: list[np.ndarray]) -> None:
    topics = fit_topics(runs, 4)
    assert topics.directions == topics.strengths == ()
    latents = np.random.default_rng(0).normal(size=(5, 4))
    assert topics.changes(latents, 2).tolist() == [0.0] * 4
    assert topics.changes(latents[:1], 2).tolist() == []
    by_all = depths(latents, np.ones((5, 4)), DepthConfig(compare="divergence"))
    assert depths(latents, np.ones((5, 4)), DepthConfig(), topics).tolist() == by_all.tolist()


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"Topics.directions must be as many rows"):
        Topics(centre=(0.0,), directions=((1.0,),), strengths=())
    with pytest.raises(RequestError, match=r"Topics.strengths must be positive"):
        Topics(centre=(0.0,), directions=((1.0,),), strengths=(0.0,))
