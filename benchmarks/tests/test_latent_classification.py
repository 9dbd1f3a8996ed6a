from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.measures.latent_classification import CLASSIFIERS, ClassificationConfig, balanced, classification_rows
from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian

SMALL = ClassificationConfig(
    steps=250,
    labelled_rows=30,
    unlabelled_rows=40,
    learning_rate=0.01,
    hidden=(16,),
    latents=2,
    classifier_hidden=(16,),
    ema_decay=0.9,
    alpha=1.0,
)


def clusters(count: int, seed: int, views: int = 2) -> tuple[Gaussian, np.ndarray]:
    """Three classes, each spread along one axis of its own and told apart by another; a narrow posterior."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centre = 3.0 * torch.eye(3, 6)[labels]
    centre[:, 3:] = 1.5 * torch.randn(count, 3, generator=generator)
    mean = centre.unsqueeze(1) + 0.3 * torch.randn(count, views, 6, generator=generator)
    return Gaussian(mean, torch.full_like(mean, -4.0)), labels.numpy()


def errors(
    count: int | None,
    seed: int = 0,
    settings: ClassificationConfig = SMALL,
    names: tuple[str, ...] = tuple(CLASSIFIERS),
) -> dict[str, float]:
    (train, labels), (test, truth) = clusters(300, 0), clusters(150, 1, views=1)
    rows = classification_rows(train, labels, test, truth, settings, count=count, seed=seed, names=names)
    assert [list(row) for row in rows] == [["classifier", "labels", "seed", "error"]] * len(names)
    assert {(row["labels"], row["seed"]) for row in rows} == {(count or 300, seed)}
    return {row["classifier"]: row["error"] for row in rows}


def test_every_classifier_learns_separable_classes_from_all_labels() -> None:
    found = errors(None)
    assert set(found) == {"linear probe", "k-nn", "m1", "m1+m2"}
    assert max(found.values()) < 0.03, found


def test_unlabelled_images_help() -> None:
    """With one label of each class, M1 goes by three images, and M1+M2 by where the other 297 lie."""
    found = [errors(3, seed, names=("m1", "m1+m2")) for seed in (0, 1)]
    mean = {name: np.mean([one[name] for one in found]) for name in ("m1", "m1+m2")}
    assert mean["m1+m2"] < 0.05, found
    assert mean["m1+m2"] < 0.3 * mean["m1"], found


def test_the_same_seed_gives_the_same_rows_whatever_the_global_generator_says() -> None:
    quick = dataclasses.replace(SMALL, steps=5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = errors(6, 0, quick)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    torch.manual_seed(6)
    assert errors(6, 0, quick) == first
    assert errors(6, 1, quick) != first


def test_balanced_draws_as_many_of_each_class_and_all_without_a_number() -> None:
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 0, 1, 2])
    drawn = balanced(labels, 6, 3)
    assert sorted(labels[drawn]) == [0, 0, 1, 1, 2, 2]
    assert (np.diff(drawn) > 0).all()
    assert (balanced(labels, 6, 3) == drawn).all()
    assert {tuple(balanced(labels, 6, seed)) for seed in range(8)} != {tuple(drawn)}
    assert (balanced(labels, None, 0) == np.arange(10)).all()


@pytest.mark.parametrize(
    ("count", "rule"),
    [
        (4, "labels to draw must be a positive multiple of the 3 classes, got 4"),
        (0, "labels to draw must be a positive multiple of the 3 classes, got 0"),
        (12, "labels to draw must be at most 3 of each class, got 4"),
    ],
)
def test_labels_that_cannot_be_drawn_are_refused(count: int, rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        balanced(np.array([0, 1, 2, 2, 1, 0, 0, 0, 1, 2]), count, 0)


@pytest.mark.parametrize(("setting", "rule"), [({"steps": 0}, "steps must be at least 1"), ({"alpha": -1.0}, "alpha")])
def test_settings_are_checked(setting: dict, rule: str) -> None:
    with pytest.raises(RequestError, match=f"ClassificationConfig.{rule}"):
        ClassificationConfig(**setting)
