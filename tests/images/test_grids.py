from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.images.grids import encode_png, tile, to_pixels


def test_values_become_levels() -> None:
    image = torch.tensor([-0.1, 0.0, 0.5, 1.0]).view(1, 1, 2, 2)
    assert to_pixels(image)[..., 0].tolist() == [[[0, 0], [128, 255]]]


def test_pictures_stand_in_rows_with_white_between() -> None:
    pictures = np.stack([np.full((50, 60, 1), value, np.uint8) for value in (10, 20, 30)])
    found = tile(pictures, columns=2)
    assert found.shape == (2 * 52 + 2, 2 * 62 + 2, 3)
    assert [found[2, 2, 0], found[51, 61, 2], found[2, 64, 1], found[54, 2, 0]] == [10, 10, 20, 30]
    assert [found[1, 1, 0], found[52, 2, 0], found[2, 62, 0], found[54, 64, 0]] == [255] * 4


def test_small_pictures_are_enlarged() -> None:
    found = tile(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), columns=1)
    assert found.shape == (60, 60, 3)
    assert [found[2, 2, 0], found[29, 29, 0], found[29, 30, 0], found[30, 29, 0], found[57, 57, 0]] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(BytesIO(encode_png(pixels))) as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
