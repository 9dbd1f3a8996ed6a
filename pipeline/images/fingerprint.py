"""Facts about a labelled image data set that decide how a segmenter for it is trained, from some of its images."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.images.inputs import NO_CLASS, decode_scaled
from pipeline.images.labels import LabelRules

_IMAGES = 96
_LARGEST = 1 << 30
_MOST_PIXELS = 100_000_000
_LEAST_SHARE = 0.002  # of all pixels; how thin a rarer class is, is left to chance
_SYMMETRIC_CLASSES, _SYMMETRIC_COLOURS = 0.06, 0.04


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one labelled image looks like. Arrays have a value for each class."""

    height: int
    width: int
    pixels: np.ndarray
    """Number of pixels of each class."""
    thickness: np.ndarray
    """Mean thickness of the regions of each class in pixels, NaN if it has none: twice the area over the number of
    pixel sides at which another class begins. A long strip has its width."""
    halves: np.ndarray
    """Fraction of the pixels of the upper and of the lower half that each class has, (2, k)."""
    colours: np.ndarray
    """Mean red, green and blue of both halves, (2, 3), in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What the images of a data set have in common."""

    images: int
    """Number of images that were looked at."""
    height: int
    """Median height and width in pixels."""
    width: int
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each image that was looked at."""
    size_spread: float
    """How many times as long the long side of a large image (90th percentile) is as that of a small one (10th)."""
    shares: tuple[float, ...]
    """Fraction of the labelled pixels that each class has."""
    thickness: tuple[float | None, ...]
    """Median of the classes' `Look.thickness` in pixels; None if it is not known."""
    size_in_pixels: bool
    """Whether objects have the same size in pixels in large and in small images, and not the same part of the image."""
    has_up: bool
    """Whether the upper half differs from the lower one."""

    def thinnest(self) -> tuple[int, float] | None:
        """The class with the thinnest regions among those that are not too rare, and its thickness in pixels."""
        found = [
            (value, index)
            for index, (value, share) in enumerate(zip(self.thickness, self.shares, strict=True))
            if value is not None and share >= _LEAST_SHARE
        ]
        return (min(found)[1], min(found)[0]) if found else None


def fingerprint(inputs: pa.Table, rules: LabelRules) -> Fingerprint:
    """The fingerprint of labelled inputs, from at most 96 of them, spread evenly. Those that cannot be read are left
    out; `RequestError` if none can."""
    places = np.unique(np.linspace(0, inputs.num_rows - 1, min(_IMAGES, inputs.num_rows)).round().astype(int))
    some = inputs.take(places).to_pylist()

    def see(row: dict[str, str]) -> Look | str:
        try:
            data, label = (storage.fetch(row[name], storage.Read(max_bytes=_LARGEST)) for name in ("uri", "label_uri"))
            image, height, width = decode_scaled(data, _MOST_PIXELS, 1.0)
            return look(image, rules.read(label, height, width), len(rules.classes))
        except InputError as reason:
            return str(reason)

    with ThreadPoolExecutor(4, "look") as pool:
        found = list(pool.map(see, some))
    looks = [item for item in found if isinstance(item, Look)]
    if not looks:
        raise RequestError(f"none of {len(found)} training images and their labels can be read; the first: {found[0]}")
    return combined(looks)


def look(image: np.ndarray, label: np.ndarray, classes: int) -> Look:
    """See `Look`. ``image``: (h, w, 3) uint8, ``label``: (h, w) uint8 with `NO_CLASS` for pixels without a class."""
    known = label != NO_CLASS
    pixels = np.bincount(label[known], minlength=classes)
    sides = np.zeros(classes)
    for first, second in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
        edge = (first != second) & (first != NO_CLASS) & (second != NO_CLASS)
        sides += np.bincount(first[edge], minlength=classes) + np.bincount(second[edge], minlength=classes)
    # A region that reaches from border to border is at most as thick as the image.
    bare = float(min(label.shape))
    thick = np.where(sides > 0, 2 * pixels / np.maximum(sides, 1), bare)
    middle = label.shape[0] // 2
    halves = np.stack([_shares(half, classes) for half in (label[:middle], label[middle:])])
    colours = np.stack(
        [half.reshape(-1, 3).mean(0) if half.size else np.zeros(3) for half in (image[:middle], image[middle:])]
    )
    return Look(
        height=label.shape[0],
        width=label.shape[1],
        pixels=pixels,
        thickness=np.where(pixels > 0, np.minimum(thick, bare), np.nan),
        halves=halves,
        colours=colours / 255,
    )


def combined(looks: Iterable[Look]) -> Fingerprint:
    """The fingerprint of images that were looked at, at least one."""
    looks = list(looks)
    long = np.array([max(one.height, one.width) for one in looks], float)
    thickness = np.stack([one.thickness for one in looks])
    pixels = np.stack([one.pixels for one in looks])
    total = pixels.sum(0)
    halves = np.abs(np.diff(np.mean([one.halves for one in looks], 0), axis=0)).sum() / 2
    colours = np.abs(np.diff(np.mean([one.colours for one in looks], 0), axis=0)).max()
    return Fingerprint(
        images=len(looks),
        height=int(np.median([one.height for one in looks])),
        width=int(np.median([one.width for one in looks])),
        sizes=tuple((one.height, one.width) for one in looks),
        size_spread=float(np.quantile(long, 0.9) / np.quantile(long, 0.1)),
        shares=tuple((total / max(1, total.sum())).tolist()),
        thickness=tuple(float(np.nanmedian(one)) if np.isfinite(one).any() else None for one in thickness.T),
        size_in_pixels=_size_in_pixels(thickness, pixels, long),
        has_up=bool(halves > _SYMMETRIC_CLASSES or colours > _SYMMETRIC_COLOURS),
    )


def _size_in_pixels(thickness: np.ndarray, pixels: np.ndarray, long: np.ndarray) -> bool:
    """Whether the thickness of classes varies less in pixels than as a part of the image."""
    variances = np.zeros(2)
    for values, counts in zip(thickness.T, pixels.T, strict=True):
        seen = np.isfinite(values) & (values > 0)
        if seen.sum() >= 2:
            in_pixels = np.log(values[seen])
            variances += counts.sum() * np.array([np.var(in_pixels), np.var(in_pixels - np.log(long[seen]))])
    return bool(variances[0] < variances[1])


def _shares(label: np.ndarray, classes: int) -> np.ndarray:
    known = label[label != NO_CLASS]
    return np.bincount(known, minlength=classes) / max(1, len(known))
