"""Masks of images of any size: logits at the model's resolution to class ids at the image's own, band by band.

A band is a number of whole rows of logits. A small image is one band. A large one is cut into overlapping tiles, whose
logits are blended smoothly, one row of tiles at a time, so the memory does not depend on the image's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.images.inputs import PADDING

# Number of float32 logits that are upsampled at a time; it bounds the memory.
_STRIP_VALUES = 16 * 1024 * 1024
_PASS_PX = 1 << 19  # pixels of the tiles in one forward pass
_LEAST_WEIGHT = 1e-3  # of a pixel at the edge of a tile, so that a pixel that only one tile has keeps its logits

#: Maps images in [0, 1], (b, 3, h, w), to logits (b, k, h, w).
Logits = Callable[[Tensor], Tensor]


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
    pixels: np.ndarray, tiling: Tiling, logits: Logits, device: torch.device
) -> Iterator[Float[Tensor, "k rows w"]]:
    """The blended logits of an image (h, w, 3) uint8, in bands from the top down, which have all rows together."""
    height, width = pixels.shape[:2]
    tops, lefts = tiling.starts(height, width)
    window = _window(tiling.height_px)[:, None] * _window(tiling.width_px)[None, :]
    count_at_once = max(1, _PASS_PX // (tiling.height_px * tiling.width_px))
    total: Tensor | None = None  # weighted logits of the rows from `done` on
    weights = torch.zeros(1)
    done = 0
    for index, top in enumerate(tops):
        bottom = min(top + tiling.height_px, height)
        for start in range(0, len(lefts), count_at_once):
            group = lefts[start : start + count_at_once]
            tiles = np.full((len(group), tiling.height_px, tiling.width_px, 3), PADDING, np.uint8)
            for tile, left in zip(tiles, group, strict=True):
                part = pixels[top:bottom, left : left + tiling.width_px]
                tile[: part.shape[0], : part.shape[1]] = part
            batch = torch.from_numpy(tiles).to(device).permute(0, 3, 1, 2).float() / 255
            found = logits(batch).float().cpu()
            if total is None:
                total = torch.zeros(found.shape[1], tiling.height_px, width)
                weights = torch.zeros(tiling.height_px, width)
            for one, left in zip(found, group, strict=True):
                rows, columns = bottom - top, min(tiling.width_px, width - left)
                weight = window[:rows, :columns]
                total[:, :rows, left : left + columns] += one[:, :rows, :columns] * weight
                weights[:rows, left : left + columns] += weight
        assert total is not None
        following = tops[index + 1] if index + 1 < len(tops) else height
        count = following - done
        yield total[:, :count] / weights[:count]
        rest = tiling.height_px - count
        if index + 1 < len(tops):
            total[:, :rest], weights[:rest] = total[:, count:].clone(), weights[count:].clone()
            total[:, rest:], weights[rest:] = 0, 0
        done = following


def full_size(bands: Iterable[Float[Tensor, "k rows w"]], rows: int, height: int, width: int) -> np.ndarray:
    """The class with the largest logit after bilinear interpolation, (height, width) uint8 or uint16.

    ``rows``: number of rows of all bands together. Rows are interpolated in strips, so that memory is bounded.
    """
    result = np.empty((0, 0), np.uint8)
    first, second, weight = _interpolation(rows, height, torch.device("cpu"))
    above: Tensor | None = None  # the last row before the band
    begin = written = 0
    for band in bands:
        if not result.size:
            result = np.empty((height, width), np.uint8 if len(band) <= 256 else np.uint16)
        end = begin + band.shape[1]
        known = band if above is None else torch.cat((above, band), 1)
        offset = begin - (above is not None)
        ready = height if end == rows else int(torch.searchsorted(second, end))
        columns = _interpolation(band.shape[2], width, band.device)
        strip = max(1, _STRIP_VALUES // (len(band) * width))
        for start in range(written, ready, strip):
            stop = min(start + strip, ready)
            part = slice(int(first[start]) - offset, int(second[stop - 1]) - offset + 1)
            wide = _blend(known[:, part], columns, 2)
            places = tuple((place[start:stop] - offset - part.start).to(band.device) for place in (first, second))
            values = _blend(wide, (*places, weight[start:stop].to(band.device)), 1)
            result[start:stop] = _argmax(values).cpu().numpy()
        above, begin, written = known[:, -1:].clone(), end, ready
    return result


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


def _argmax(values: Float[Tensor, "k h w"]) -> Tensor:
    """Index of the largest value along axis 0, the first if equal; on CPUs five times as fast as torch's argmax."""
    best = values[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8 if len(values) <= 256 else torch.int32, device=best.device)
    for index in range(1, len(values)):
        found.masked_fill_(values[index] > best, index)
        torch.maximum(best, values[index], out=best)
    return found


def _interpolation(size: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``wanted`` positions: two source positions and the second's weight. Pixel centres are aligned."""
    place = ((torch.arange(wanted, device=device, dtype=torch.float64) + 0.5) * size / wanted - 0.5).clamp(0, size - 1)
    first = place.floor().long()
    return first, (first + 1).clamp(max=size - 1), (place - first).float()


def _blend(values: Tensor, interpolation: tuple[Tensor, ...], axis: int) -> Tensor:
    first, second, weight = interpolation
    weight = weight.view([-1 if index == axis else 1 for index in range(values.ndim)])
    low = values.index_select(axis, first)
    return low.lerp(values.index_select(axis, second), weight)
