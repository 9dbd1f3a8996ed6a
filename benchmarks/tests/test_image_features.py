import numpy as np
import pytest
import torch

from benchmarks.measures.image_features import (
    Classifier,
    ClassifierConfig,
    ClassifierTraining,
    _augmented,
    accuracy,
    describe,
    digest,
    dump,
    load,
    train_classifier,
)
from benchmarks.tests.images import bars
from pipeline.errors import RequestError

NETWORK = ClassifierConfig(classes=2, widths=(8, 16), features=5)
TRAINING = ClassifierTraining(epochs=3, batch_rows=50, learning_rate=0.01)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(*bars(600), NETWORK, TRAINING)


def test_it_learns(trained):
    assert accuracy(trained, *bars(200, seed=1)) > 0.97
    assert not trained.training
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_the_same_seed_gives_the_same_weights(trained):
    images, labels = bars(600)
    torch.manual_seed(99)  # what came before has no part in it
    state = torch.random.get_rng_state()
    again = train_classifier(images.numpy(), labels.numpy(), NETWORK, TRAINING)
    assert (torch.random.get_rng_state() == state).all()
    assert digest(dump(again)) == digest(dump(trained))
    other = train_classifier(images, labels, NETWORK, ClassifierTraining(epochs=1, seed=1))
    assert digest(dump(other)) != digest(dump(trained))


def test_a_file_gives_the_same_features(trained):
    data, images = dump(trained), bars(30)[0]
    assert dump(trained) == data
    again = load(data, digest(data))
    assert again.config == NETWORK
    assert dump(again) == data
    for mine, theirs in zip(describe(trained, images), describe(again, images), strict=True):
        assert (mine == theirs).all()


def test_a_wrong_file_is_named(trained):
    data = dump(trained)
    with pytest.raises(RequestError, match=r"digest must be 00, got [0-9a-f]{64}$"):
        load(data, "00")
    for broken in (data[:100], b"", b"\xff" * 50):
        with pytest.raises(RequestError, match="broken, or is no classifier's"):
            load(broken)
    other = Classifier(ClassifierConfig(classes=2, widths=(8,), features=5))
    other.config = NETWORK
    with pytest.raises(RequestError, match="do not fit its settings"):
        load(dump(other))


def test_what_is_said_of_an_image_does_not_depend_on_the_others(trained):
    images = bars(520)[0]
    found = describe(trained, images)
    assert found.features.shape == (520, 5)
    assert found.features.dtype == found.confidence.dtype == np.float64
    alone = describe(trained, images[515:516])
    np.testing.assert_allclose(found.features[515:516], alone.features, atol=1e-4)
    with torch.no_grad():
        features, logits = trained(images)
    np.testing.assert_allclose(found.features, features, atol=1e-4)
    assert (found.labels == logits.argmax(1).numpy()).all()
    np.testing.assert_allclose(found.confidence, logits.softmax(1).amax(1), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 13), (1, 32, 20), (2, 5, 5)])
def test_any_size_and_channels(shape):
    network = ClassifierConfig(channels=shape[0], classes=3, widths=(8, 16), features=4)
    images = torch.rand(8, *shape)
    found = describe(train_classifier(images, torch.arange(8) % 3, network, ClassifierTraining(epochs=1)), images)
    assert found.features.shape == (8, 4)
    assert np.isfinite(found.features).all()


def test_wrong_requests_are_named():
    images, labels = bars(4)
    with pytest.raises(RequestError, match="labels must be 4 whole numbers"):
        train_classifier(images, labels[:3], NETWORK)
    with pytest.raises(RequestError, match="labels must be 0 to 1"):
        train_classifier(images, labels + 1, NETWORK)
    with pytest.raises(RequestError, match="channels is 1, but images have 3"):
        describe(Classifier(NETWORK), images.expand(-1, 3, -1, -1))
    with pytest.raises(RequestError, match=r"ClassifierConfig.widths must be positive multiples of 8, got \(7,\)"):
        ClassifierConfig(widths=(7,))
    with pytest.raises(RequestError, match=r"ClassifierTraining.epochs must be at least 1"):
        ClassifierTraining(epochs=0)


def test_augmentation_turns_scales_and_moves():
    image = torch.zeros(1, 1, 40, 20)
    image[0, 0, 20, 4:16] = 1
    same = ClassifierTraining(rotation_degrees=0, scale=0, shift=0)
    torch.testing.assert_close(_augmented(image, same, torch.Generator()), image, atol=1e-5, rtol=0)
    many = image.expand(200, -1, -1, -1)
    moved = _augmented(many, ClassifierTraining(rotation_degrees=0, scale=0, shift=0.1), torch.Generator())
    rows = (moved.sum((1, 3)) * torch.arange(40)).sum(1) / moved.sum((1, 2, 3))
    assert rows.min() == pytest.approx(16, abs=0.5)
    assert rows.max() == pytest.approx(24, abs=0.5)
    scaled = _augmented(many, ClassifierTraining(rotation_degrees=0, scale=0.3, shift=0), torch.Generator())
    widths = scaled.amax(2).sum((1, 2)) / scaled.amax((1, 2, 3))
    assert widths.min() == pytest.approx(12 * 0.7, abs=1)
    assert widths.max() == pytest.approx(12 * 1.3, abs=1)
    # Turned by a right angle, the bar is as long as before, though the image is oblong.
    quarter = ClassifierTraining(rotation_degrees=90, scale=0, shift=0)
    heights = _augmented(many, quarter, torch.Generator()).amax(3).sum((1, 2))
    assert heights.max() == pytest.approx(12, abs=1.5)
