"""Regions of a mask: the connected components of its classes, and their outlines."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True, kw_only=True)
class Region:
    """Pixels of one class that hang together by their sides."""

    class_id: int
    top: int
    left: int
    inside: np.ndarray
    """Booleans (h, w), cut to the region's box, which begins at (top, left)."""

    @property
    def box(self) -> list[int]:
        """Left, top, width, height in pixels."""
        return [self.left, self.top, self.inside.shape[1], self.inside.shape[0]]


def regions(mask: np.ndarray, without: Collection[int] = ()) -> Iterator[Region]:
    """The regions of a mask (h, w) of class ids, in the order of their classes. ``without``: ids that have none."""
    for class_id in np.unique(mask).tolist():
        if class_id in without:
            continue
        labels, _ = ndimage.label(mask == class_id)  # type: ignore[misc]
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            inside = labels[rows, columns] == number
            yield Region(class_id=class_id, top=rows.start, left=columns.start, inside=inside)


def polygons(region: Region) -> list[list[int]]:
    """Polygons [x, y, x, y, ...] along the edges of pixels, which together cover just the region's pixels.

    Polygons have no holes. So a region with holes is cut through them, and has several polygons.
    """
    return [
        [value for x, y in outline for value in (x + region.left, y + region.top)] for outline in _cut(region.inside)
    ]


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centres are inside of a polygon (n, 2), x before y, by the even-odd rule: booleans (h, w)."""
    inside = np.zeros((height, width), bool)
    if len(points) < 3:
        return inside
    x, y = points.T.astype(np.float64)
    x_end, y_end = np.roll(x, -1), np.roll(y, -1)
    for row in range(max(0, math.floor(y.min())), min(height, math.ceil(y.max()))):
        centre = row + 0.5
        crosses = (y <= centre) != (y_end <= centre)
        places = x[crosses] + (centre - y[crosses]) * (x_end - x)[crosses] / (y_end - y)[crosses]
        # A pixel is right of an edge if its centre is. Right of an odd number of edges, it is inside.
        columns = np.clip(np.ceil(places - 0.5), 0, width).astype(np.int64)
        inside[row] = np.cumsum(np.bincount(columns, minlength=width + 1))[:width] % 2 == 1
    return inside


def _cut(inside: np.ndarray) -> list[list[tuple[int, int]]]:
    """The outlines of the parts of a mask (h, w), each without holes."""
    found, waiting = [], [(0, 0, inside)]
    while waiting:
        top, left, piece = waiting.pop()
        labels, _ = ndimage.label(piece)  # type: ignore[misc]
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            part = labels[rows, columns] == number
            y, x = top + rows.start, left + columns.start
            holes = np.flatnonzero((ndimage.binary_fill_holes(part) & ~part).any(0))
            if len(holes):
                middle = int(holes[len(holes) // 2])
                waiting += [(y, x, part[:, :middle]), (y, x + middle, part[:, middle:])]
            else:
                found.append([(x + a, y + b) for a, b in _outline(part)])
    return found


def _outline(part: np.ndarray) -> list[tuple[int, int]]:
    """The corners (x, y) of a region (h, w) without holes, clockwise. Each corner of a pixel is passed once at most."""
    padded = np.pad(part, 1)
    following: dict[tuple[int, int], tuple[int, int]] = {}
    # For each side of a pixel: where the other pixel is, and the side's start and end relative to the pixel's corner.
    for (down, right), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        other = padded[1 + down : padded.shape[0] - 1 + down, 1 + right : padded.shape[1] - 1 + right]
        for y, x in np.argwhere(part & ~other).tolist():
            following[x + start[0], y + start[1]] = (x + end[0], y + end[1])
    begin = min(following)
    path = [begin]
    while (place := following[path[-1]]) != begin:
        path.append(place)
    before, after = path[-1:] + path[:-1], path[1:] + path[:1]
    return [
        b
        for a, b, c in zip(before, path, after, strict=True)
        if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1])
    ]
