"""Logits at the model's resolution to class ids at the image's own, block by block and exactly.

The result is the class with the largest logit after bilinear interpolation. A cell is the square between four
neighbouring logits. Inside it, an interpolated logit is a convex combination of the four, which keeps their order: if
one class is the best at all four corners, it is the best everywhere in the cell. So only the pixels of cells whose
corners differ are interpolated. They lie on the boundaries of objects and are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

#: Logits of an image from the top down, in bands of whole rows. Each band is given as its blocks (k, rows, columns)
#: from left to right. The blocks of a band have the same rows, and all bands have the same columns in their blocks.
Bands = Iterable[Iterable[Float[Tensor, "k rows columns"]]]

_BAND_PX = 1 << 20  # pixels of the result that a band of `in_bands` has, which bounds the memory
_AT_ONCE = 1 << 15  # pixels that are interpolated at a time, so that their logits stay in the processor's cache


def in_bands(logits: Float[Tensor, "k h w"], height: int, width: int) -> Iterator[Iterator[Tensor]]:
    """The logits of an image as bands of one block each, for a result of (height, width) in bounded memory."""
    rows = max(1, _BAND_PX * logits.shape[1] // (height * width))
    return (iter([band]) for band in logits.split(rows, 1))


def class_strips(bands: Bands, size: tuple[int, int], wanted: tuple[int, int]) -> Iterator[np.ndarray]:
    """The class ids of an image of the size ``wanted`` (h, w), in strips of whole rows, uint8 or uint16, from the top
    down.

    ``size`` (h, w) is that of all logits together. Of classes with equal logits the first is taken.
    """
    down, across = (_Axis(have, want) for have, want in zip(size, wanted, strict=True))
    edge: list[Tensor] = []  # the last row of each block of the band before
    begin = written = 0
    for blocks in bands:
        strip, edge, begin = _strip(blocks, edge, begin, written, down, across)
        written += len(strip)
        if len(strip):
            yield strip


def _strip(
    blocks: Iterable[Tensor], edge: list[Tensor], begin: int, written: int, down: _Axis, across: _Axis
) -> tuple[np.ndarray, list[Tensor], int]:
    """The rows of the result from ``written`` on that a band of logits completes, the band's last row of each block,
    and its end. The band's rows are those from ``begin`` on."""
    strip = np.empty((0, across.wanted), np.uint8)
    last_rows: list[Tensor] = []
    last_column: Tensor | None = None
    column = done = 0
    end = begin
    for index, block in enumerate(blocks):
        last_rows.append(block[:, -1:].clone())
        end = begin + block.shape[1]
        known = torch.cat((edge[index], block), 1) if edge else block
        vertical = down.places(written, down.completed(end), begin - bool(edge), block.device)
        first = column
        if last_column is not None:
            known = torch.cat((last_column, known), 2)
            first -= 1
        column += block.shape[2]
        horizontal = across.places(done, across.completed(column), first, block.device)
        found = _class_ids(known, vertical, horizontal)
        if not index:
            strip = np.empty((len(found), across.wanted), found.dtype)
        strip[:, done : done + found.shape[1]] = found
        done += found.shape[1]
        last_column = known[:, :, -1:].clone()
    return strip, last_rows, end


@dataclass(frozen=True)
class _Places:
    """For each position along an axis of the result: its two source positions, and the weight of the second."""

    first: Tensor
    second: Tensor
    weight: Tensor


class _Axis:
    """Bilinear interpolation along an axis from ``size`` to ``wanted`` positions; the centres of pixels are aligned."""

    def __init__(self, size: int, wanted: int) -> None:
        self.size, self.wanted = size, wanted
        place = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * size / wanted - 0.5).clamp(0, size - 1)
        self._first = place.floor().long()
        self._second = (self._first + 1).clamp(max=size - 1)
        self._weight = (place - self._first).float()

    def completed(self, end: int) -> int:
        """How many positions only need source positions below ``end``."""
        return self.wanted if end == self.size else int(torch.searchsorted(self._second, end))

    def places(self, start: int, stop: int, first: int, device: torch.device) -> _Places:
        """Positions ``start`` to ``stop``, whose source positions are counted from ``first`` on."""
        part = slice(start, stop)
        found = (self._first[part] - first, self._second[part] - first, self._weight[part])
        return _Places(*(values.to(device) for values in found))


def _class_ids(logits: Float[Tensor, "k h w"], down: _Places, across: _Places) -> np.ndarray:
    """The best class at each position of the result, (rows, columns)."""
    best = _argmax(logits)
    found = _stretched(best, down, across)
    if bool(down.weight.any()) or bool(across.weight.any()):
        below, right = (torch.cat((best.narrow(a, 1, best.shape[a] - 1), best.narrow(a, -1, 1)), a) for a in (0, 1))
        corner = torch.cat((below[:, 1:], below[:, -1:]), 1)
        is_mixed = (best != below) | (best != right) | (best != corner)
        where = _true_places(_stretched(is_mixed, down, across))
        found.view(-1)[where] = _interpolated(logits, where, down, across).to(found.dtype)
    ids = found.cpu().numpy()
    return ids if ids.dtype == np.uint8 else ids.astype(np.uint16)


def _stretched(values: Tensor, down: _Places, across: _Places) -> Tensor:
    """The value at the first source position of each position of the result: columns first, while there are few rows,
    then whole rows, which is six times as fast as the other way round."""
    return values.index_select(1, across.first).index_select(0, down.first)


def _true_places(mask: Tensor) -> Tensor:
    """Indices of what is true, into the rows one after the other; on CPUs by numpy, four times as fast as torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _interpolated(logits: Float[Tensor, "k h w"], where: Tensor, down: _Places, across: _Places) -> Tensor:
    """The best class at some positions of the result, given as indices into its rows one after the other."""
    width = logits.shape[2]
    vectors = logits.flatten(1).t().contiguous()
    tops, bottoms = down.first * width, down.second * width
    best = []
    for part in where.split(_AT_ONCE):
        y = part // len(across.first)
        x = part - y * len(across.first)
        left, right, weight = across.first[x], across.second[x], across.weight[x][:, None]
        above, under = (
            vectors.index_select(0, row[y] + left).lerp_(vectors.index_select(0, row[y] + right), weight)
            for row in (tops, bottoms)
        )
        best.append(above.lerp_(under, down.weight[y][:, None]).argmax(1))
    return torch.cat(best) if best else where


def _argmax(values: Float[Tensor, "k h w"]) -> Tensor:
    """Index of the largest value along axis 0, the first if equal; on CPUs five times as fast as torch's argmax.

    The result is uint8, or int32 for more than 256 classes.
    """
    best = values[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8 if len(values) <= 256 else torch.int32, device=best.device)
    for index in range(1, len(values)):
        found.masked_fill_(values[index] > best, index)
        torch.maximum(best, values[index], out=best)
    return found
