"""Masks of large images from tiles and bands: as the whole image at once, in bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.images.stitching import Rows, Tiling, tile_bands
from pipeline.images.upsampling import class_strips

CPU = torch.device("cpu")


def near(image: Tensor) -> Tensor:
    """Logits that depend on a neighbourhood of 5 x 5 pixels, as a network's do."""
    kernel = torch.ones(3, 1, 5, 5) / 25
    smooth = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    return 20 * torch.stack((smooth[:, 0], smooth[:, 1], 0.9 * smooth[:, 2]), 1)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


def reader(pixels: np.ndarray) -> Rows:
    return lambda start, stop: pixels[start:stop]


def whole(pixels: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return near(image)[0].argmax(0).numpy().astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (20, 30), (1, 1), (65, 200), (200, 65), (257, 300), (64, 301)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_tiles_give_the_mask_of_the_whole_image(size: tuple[int, int], overlap: float) -> None:
    pixels = picture(*size)
    bands = tile_bands(reader(pixels), size, Tiling(height_px=64, width_px=64, overlap=overlap), near, CPU)
    mask = np.concatenate(list(class_strips(bands, size, size)))
    assert mask.shape == size
    # Where an image is hardly larger than a tile, all its edges are near the edges of tiles.
    assert np.mean(mask != whole(pixels)) <= (0.001 if max(size) > 65 and min(size) != 65 else 0.005)


def test_every_pixel_has_a_band_and_bands_are_finite() -> None:
    pixels = picture(150, 90)
    tiling = Tiling(height_px=32, width_px=48, overlap=0.3)
    bands = [torch.cat(list(blocks), 2) for blocks in tile_bands(reader(pixels), (150, 90), tiling, near, CPU)]
    assert sum(band.shape[1] for band in bands) == 150
    assert all(band.shape[2] == 90 and band.isfinite().all() for band in bands)


def test_tiles_cover_evenly() -> None:
    for size in (1, 63, 64, 65, 100, 1000):
        starts = Tiling(height_px=64, width_px=64, overlap=0.25).starts(size, size)[0]
        assert starts[0] == 0
        assert starts[-1] == max(0, size - 64)
        assert all(0 < b - a <= 48 for a, b in itertools.pairwise(starts))


def test_memory_does_not_grow_with_the_image() -> None:
    """Blocks are as large as a tile at most, and what is kept for the next row of tiles is a part of a row."""
    tiling = Tiling(height_px=64, width_px=64, overlap=0.25)
    for size in ((128, 128), (1024, 128), (128, 1024)):
        pixels = np.zeros((*size, 3), np.uint8)
        for blocks in tile_bands(reader(pixels), size, tiling, near, CPU):
            assert all(block.shape[1] <= 64 and block.shape[2] <= 64 for block in blocks)
    peaks = []
    for height in (256, 2048):
        tracemalloc.start()
        for blocks in tile_bands(lambda a, b: np.zeros((b - a, 128, 3), np.uint8), (height, 128), tiling, near, CPU):
            for _ in blocks:
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
