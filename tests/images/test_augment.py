import pytest
import torch

from pipeline.errors import RequestError
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.inputs import NO_CLASS, PADDING
from pipeline.noise import Noise

STILL = AugmentConfig(flip=False, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, color=0.0)


def batch(rows=4, height=12, width=16):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(rows, 3, height, width, generator=generator)
    return image, torch.randint(0, 11, (rows, height, width), generator=generator).to(torch.uint8)


def test_without_change_nothing_changes():
    image, label = batch()
    new_image, new_label = augment_images(image, label, STILL, Noise(0, 0, range(4)))
    torch.testing.assert_close(new_image, image)
    assert torch.equal(new_label, label)


def test_a_flip_mirrors_image_and_label_together():
    image, label = batch(rows=16)
    config = AugmentConfig(flip=True, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, color=0.0)
    new_image, new_label = augment_images(image, label, config, Noise(0, 0, range(16)))
    mirrored = [torch.equal(new_label[i], label[i].flip(1)) for i in range(16)]
    assert 2 < sum(mirrored) < 14
    for index, flipped in enumerate(mirrored):
        wanted = (image[index].flip(2), label[index].flip(1)) if flipped else (image[index], label[index])
        torch.testing.assert_close(new_image[index], wanted[0], atol=1e-4, rtol=0)
        assert torch.equal(new_label[index], wanted[1])


def test_zooming_out_shows_padding_that_has_no_class():
    image, label = torch.zeros(4, 3, 12, 16), torch.full((4, 12, 16), 7, dtype=torch.uint8)
    config = AugmentConfig(flip=False, scale=(0.5, 0.5), brightness=0.0, contrast=0.0, color=0.0)
    new_image, new_label = augment_images(image, label, config, Noise(1, 2, range(4)))
    assert set(new_label.unique().tolist()) == {7, NO_CLASS}
    # Half of each side is a quarter of the area; an image's edge may lie between two pixels.
    assert (new_label == 7).float().mean().item() == pytest.approx(0.25, abs=0.03)
    corner = torch.stack([new_image[:, :, y, x] for y in (0, -1) for x in (0, -1)])
    assert torch.isclose(corner, torch.tensor(PADDING / 255)).any()


def test_zooming_in_shows_no_padding():
    image, label = batch()
    config = AugmentConfig(flip=True, scale=(1.0, 2.0))
    _, new_label = augment_images(image, label, config, Noise(3, 4, range(4)))
    assert (new_label != NO_CLASS).all()


def test_changes_belong_to_the_sample_not_to_the_batch():
    image, label = batch()
    whole = augment_images(image, label, AugmentConfig(), Noise(5, 6, [10, 11, 12, 13]))
    alone = augment_images(image[2:3], label[2:3], AugmentConfig(), Noise(5, 6, [12]))
    torch.testing.assert_close(whole[0][2:3], alone[0])
    assert torch.equal(whole[1][2:3], alone[1])
    other = augment_images(image[2:3], label[2:3], AugmentConfig(), Noise(5, 7, [12]))
    assert not torch.equal(alone[0], other[0]), "another step draws anew"


def test_images_stay_in_range():
    image, _ = batch()
    config = AugmentConfig(brightness=1.0, contrast=2.0, color=2.0)
    new_image, none = augment_images(image, None, config, Noise(7, 8, range(4)))
    assert none is None
    assert new_image.min() >= 0
    assert new_image.max() <= 1 + 1e-6


def test_settings_are_checked():
    with pytest.raises(RequestError, match=r"scale must be positive, the smaller first, got \(2.0, 1.0\)"):
        AugmentConfig(scale=(2.0, 1.0))
