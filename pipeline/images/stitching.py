"""Logits of images of any size from overlapping tiles, which are blended smoothly.

An image is read from the top down, one row of tiles at a time, and each block of logits is given away as soon as all
its tiles are known. So neither the image nor its logits are ever in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.images.inputs import PADDING

_PASS_PX = 1 << 19  # pixels of the tiles in one forward pass
_LEAST_WEIGHT = 1e-3  # of a pixel at the edge of a tile, so that a pixel that only one tile has keeps its logits

#: Maps images in [0, 1], (b, 3, h, w), to logits (b, k, h, w).
Logits = Callable[[Tensor], Tensor]
#: The rows of an image from one index to another, (rows, w, 3) uint8. It is called from the top down.
Rows = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles of ``height_px`` by ``width_px``, of which neighbours share at least the fraction ``overlap``."""

    height_px: int
    width_px: int
    overlap: float

    def starts(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """The first rows and the first columns of the tiles that cover an image."""
        return _starts(height, self.height_px, self.overlap), _starts(width, self.width_px, self.overlap)


def tile_bands(
    read: Rows, size: tuple[int, int], tiling: Tiling, logits: Logits, device: torch.device
) -> Iterator[Iterator[Float[Tensor, "k rows columns"]]]:
    """The blended logits of an image of this ``size`` (h, w), in bands of blocks as `upsampling.Bands`.

    Each band must be read to its end before the next one is asked for.
    """
    return _Stitching(read, size, tiling, logits, device).bands()


class _Stitching:
    def __init__(self, read: Rows, size: tuple[int, int], tiling: Tiling, logits: Logits, device: torch.device) -> None:
        self._read, self._size, self._tiling, self._logits, self._device = read, size, tiling, logits, device
        self._tops, self._lefts = tiling.starts(*size)
        windows = _window(tiling.height_px), _window(tiling.width_px)
        self._window = windows[0][:, None] * windows[1][None, :]
        # The tiles form a grid, so the sum of their weights at a pixel is a product.
        self._row_weights = _summed(windows[0], self._tops, size[0])
        self._column_weights = _summed(windows[1], self._lefts, size[1])
        # Weighted logits (k, rows, w) of the tiles above, from the first row that is not given away.
        self._above: Tensor | None = None

    def bands(self) -> Iterator[Iterator[Tensor]]:
        for top, following in zip(self._tops, [*self._tops[1:], self._size[0]], strict=True):
            yield self._blocks(top, following)

    def _blocks(self, top: int, following: int) -> Iterator[Tensor]:
        """The blocks of the rows from ``top`` to ``following``, from left to right."""
        height, width = self._size
        bottom, count = min(top + self._tiling.height_px, height), following - top
        above, below = self._above, None
        left_part: Tensor | None = None  # weighted logits (k, rows, columns) of the tiles on the left
        ends = [*self._lefts[1:], width]
        for left, end, tile in zip(self._lefts, ends, self._tiles(top, bottom), strict=True):
            right = min(left + self._tiling.width_px, width)
            total = tile[:, : bottom - top, : right - left] * self._window[: bottom - top, : right - left]
            if left_part is not None:
                total[:, :, : left_part.shape[2]] += left_part
            left_part = total[:, :, end - left :].clone()
            total = total[:, :, : end - left]
            if above is not None:
                total[:, : above.shape[1]] += above[:, :, left:end]
            if following < height:
                if below is None:
                    below = torch.empty(len(total), bottom - following, width)
                below[:, :, left:end] = total[:, count:]
            weights = self._row_weights[top:following, None] * self._column_weights[None, left:end]
            yield total[:, :count] / weights
        self._above = below

    def _tiles(self, top: int, bottom: int) -> Iterator[Float[Tensor, "k h w"]]:
        """The logits of the tiles of one row, from left to right."""
        pixels = self._read(top, bottom)
        height, width = self._tiling.height_px, self._tiling.width_px
        count_at_once = max(1, _PASS_PX // (height * width))
        for start in range(0, len(self._lefts), count_at_once):
            group = self._lefts[start : start + count_at_once]
            tiles = np.full((len(group), height, width, 3), PADDING, np.uint8)
            for tile, left in zip(tiles, group, strict=True):
                part = pixels[:, left : left + width]
                tile[: part.shape[0], : part.shape[1]] = part
            batch = torch.from_numpy(tiles).to(self._device).permute(0, 3, 1, 2).float() / 255
            yield from self._logits(batch).float().cpu()


def _starts(size: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin so that they cover ``size`` pixels, evenly, with at least the overlap."""
    if size <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(size - tile) // step) + 1
    return [round(index * (size - tile) / (count - 1)) for index in range(count)]


def _window(size: int) -> Tensor:
    """Weights that fall from the middle of a tile to its edges as a squared sine."""
    return torch.sin((torch.arange(size) + 0.5) * torch.pi / size).square().clamp(min=_LEAST_WEIGHT)


def _summed(window: Tensor, starts: list[int], size: int) -> Tensor:
    """The sum of the weights of all tiles at each of ``size`` positions along one axis."""
    total = torch.zeros(size)
    for start in starts:
        part = total[start : start + len(window)]
        part += window[: len(part)]
    return total
