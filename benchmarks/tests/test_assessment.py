from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.measures.assessment import FIGURES, AssessConfig, assess
from benchmarks.measures.image_features import ClassifierConfig, ClassifierTraining, accuracy, train_classifier
from benchmarks.tests.images import bars
from pipeline.errors import RequestError

# Of 300 images, one in a hundred would be too few to have a spread.
CONFIG = AssessConfig(replicates=100, quantile=0.05)


@pytest.fixture(scope="module")
def classifier():
    network = ClassifierConfig(classes=2, widths=(8, 16), features=6)
    return train_classifier(*bars(400, seed=9), network, ClassifierTraining(epochs=2, batch_rows=50))


@pytest.fixture(scope="module")
def sets():
    return [bars(300, seed)[0] for seed in range(3)]


@pytest.fixture(scope="module")
def honest(classifier, sets):
    samples, train, test = sets
    return assess(samples, train, test, classifier, CONFIG)


def test_every_figure_is_there_and_within_its_interval(honest):
    assert list(honest) == list(FIGURES)
    for name, (value, low, high) in honest.items():
        assert isinstance(value, float), name
        assert np.isfinite([value, low, high]).all(), name
        assert low <= value <= high, name
        assert high > low, name


def test_new_images_of_the_same_kind_pass(honest):
    assert honest["fld"].value < 3 * honest["fld_floor"].value
    assert honest["precision"].value > 0.8
    assert honest["recall"].value > 0.8
    assert honest["density"].value == pytest.approx(1, abs=0.3)
    for name in ("high_frequency", "laplacian", "training_distance"):
        assert honest[name].value == pytest.approx(1, abs=0.1), name
    assert honest["duplicates"].value < 0.12
    assert honest["nearer_training"].low <= 0.5 <= honest["nearer_training"].high
    assert honest["class_kl"].value < 0.02


def test_each_fault_is_told_by_its_figure(honest, classifier, sets):
    samples, train, test = sets
    blurred = assess(F.avg_pool2d(samples, 3, 1, 1), train, test, classifier, CONFIG)
    assert blurred["high_frequency"].high < 0.5 * honest["high_frequency"].low
    assert blurred["laplacian"].high < 0.5 * honest["laplacian"].low
    assert blurred["fld"].value > 3 * honest["fld"].value
    copied = assess(train, train, test, classifier, CONFIG)
    assert copied["nearer_training"] == (1, 1, 1)
    assert copied["training_distance"].value == 0
    assert copied["fld"].value == pytest.approx(copied["fld_floor"].value)
    repeated = assess(samples[:20].repeat(15, 1, 1, 1), train, test, classifier, CONFIG)
    assert repeated["duplicates"].value == 1
    assert repeated["support"].high < 40
    assert repeated["support"].high < 0.1 * repeated["support_real"].low
    assert repeated["recall"].value < 0.6 * honest["recall"].value
    images, labels = bars(900, seed=0)
    one_sided = assess(images[labels == 1][:300], train, test, classifier, CONFIG)
    assert one_sided["class_kl"].low > 0.3
    assert one_sided["class_entropy"].high < 0.2


def test_results_are_seeded_and_sets_are_cut_to_one_size(honest, classifier, sets):
    samples, train, test = sets
    assert assess(samples, train, test, classifier, CONFIG) == honest
    assert assess(samples.numpy(), train.numpy(), test.numpy(), classifier, CONFIG) == honest
    other = assess(samples, train, test, classifier, dataclasses.replace(CONFIG, seed=7))
    assert other["precision"].value == honest["precision"].value
    assert other["precision"] != honest["precision"]
    cut = assess(samples[:100], train, test, classifier, CONFIG)
    again = assess(samples[:100], train, test, classifier, CONFIG)
    assert cut == again
    assert cut["fld"].high - cut["fld"].low > honest["fld"].high - honest["fld"].low


def test_wrong_requests_are_named(classifier, sets):
    samples, train, test = sets
    with pytest.raises(RequestError, match="real_train must be within"):
        assess(samples, train * 2, test, classifier)
    with pytest.raises(RequestError, match="images of one shape"):
        assess(samples[..., :8], train, test, classifier)
    with pytest.raises(RequestError, match=r"more than AssessConfig.k 5, got 5"):
        assess(samples[:5], train, test, classifier)
    with pytest.raises(RequestError, match=r"AssessConfig.cutoff must be in \(0, 0.5\), got 0.5"):
        AssessConfig(cutoff=0.5)


@pytest.mark.slow
@pytest.mark.heavy
def test_real_digits(data: Path) -> None:
    """Real images pass for real, and blurred and copied ones do not. What is held out is of the training set."""
    if not (data / "mnist").is_dir():
        pytest.skip("no mnist in the folder of real data")
    from benchmarks import mnist

    arrays, labels = mnist.load(data / "mnist", "train")
    order = np.random.default_rng(0).permutation(len(arrays))
    images = torch.from_numpy(arrays[order])[:, None].float() / 255
    labels = labels[order]
    classifier = train_classifier(images[:20_000], labels[:20_000], training=ClassifierTraining(epochs=2))
    assert accuracy(classifier, images[50_000:52_000], labels[50_000:52_000]) > 0.97
    samples, train, test = images[30_000:33_000], images[40_000:43_000], images[50_000:53_000]
    config = AssessConfig(replicates=100)
    real = assess(samples, train, test, classifier, config)
    assert real["fld"].value < 2 * real["fld_floor"].value
    assert real["duplicates"].value < 0.03
    assert real["nearer_training"].value == pytest.approx(0.5, abs=0.04)
    assert real["coverage"].value == pytest.approx(1 - 2**-5, abs=0.03)
    blurred = assess(F.avg_pool2d(samples, 3, 1, 1), train, test, classifier, config)
    assert blurred["fld"].low > real["fld"].high
    assert blurred["high_frequency"].high < 0.3
    copied = assess(torch.cat((train[:1500], train[:1500])), train, test, classifier, config)
    assert copied["duplicates"].value == 1
    assert copied["nearer_training"].value > 0.99
