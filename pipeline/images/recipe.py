"""A recipe: the settings with which a segmenter is trained, chosen from the data, the time and the machine's speed.

The rules are few and their numbers round. They were set on road scenes and drawn cells, and no test split was used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.images.fingerprint import Fingerprint
from pipeline.images.stitching import Tiling

_THICK_PX = 10.0  # thickness that the thinnest class should have in the model's input
_NEARLY = 0.75  # factor from which images are not scaled for the sake of their thinnest class
_MULTIPLE_PX = 16  # of a side of the input, so that it can be halved four times
_LEAST_SIDE_PX = 64
_MOST_AREA_PX = 512 * 640
_TOO_LARGE_PX = 2 * _MOST_AREA_PX  # area from which an image, scaled as it should be, is cut into tiles
_TILE_PX = 256
_OVERLAP = 0.25
_NEAR = 0.95  # factor from which an image is not scaled at all
_MIXED = 1.3  # spread of sizes from which images count as of different sizes
_USED = 0.85  # part of the time that steps take; the rest is for preparation and validation
_HALF_SIZE = 0.6  # part of the steps that see images at half the size
_COST = _HALF_SIZE / 4 + (1 - _HALF_SIZE)  # of a mean step, where a step at full size is 1
_LEAST_PASSES, _LEAST_SAMPLES = 40, 8_000  # what a training should see, at less than full size if need be
_WIDE_SAMPLES = 20_000  # that the wide network must be able to see, or the narrow one learns more
_MOST_PASSES = 600
_EVALUATIONS = 12
_OBJECTIVE = "cross_entropy + 0.5 * dice"
_WEIGHT_RANGE = (0.3, 4.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of the network and how fast the machine trains it."""

    width: int | None
    """Channels at the finest resolution; None: the network is given."""
    pixels_per_s: float
    memory_px: int | None = None
    """Pixels of input that a step may have so that they fit into the memory; None: no limit is known."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was chosen. The names are those of the settings."""

    resize: Literal["fit", "tile", "stretch"]
    height_px: int
    width_px: int
    tile_scale: float
    width: int | None
    objective: str
    class_weights: tuple[float, ...]
    batch_rows: int
    epochs: int
    learning_rate: float
    ema_decay: float
    evaluate_every_epochs: int
    half_size: float
    scale: tuple[float, float]
    vertical_flip: bool
    reasons: tuple[str, ...]
    """For people: what was chosen and why."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Settings of the input that are given, and not to be chosen."""

    resize: Literal["fit", "tile", "stretch"] | None = None
    height_px: int | None = None
    width_px: int | None = None
    tile_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Input:
    """What the network sees of an image."""

    resize: Literal["fit", "tile", "stretch"]
    height_px: int
    width_px: int
    scale: float
    """Factor by which the median image is scaled."""
    samples: int
    reason: str

    @property
    def area_px(self) -> int:
        return self.height_px * self.width_px


def choose(
    data: Fingerprint,
    classes: Sequence[str],
    images: int,
    minutes: float,
    sizes: Sequence[Size],
    given: Given = Given(),
) -> Recipe:
    """Choose a recipe. ``images``: of the training split; ``sizes``: networks from narrow to wide."""
    size, seen = _size(data, classes, images, minutes, sizes, given)
    budget = size.pixels_per_s * minutes * 60 * _USED
    epochs = max(1, min(_MOST_PASSES, int(budget / (seen.samples * seen.area_px * _COST))))
    batch = 8 if seen.samples * epochs >= 4_000 else 4
    batch, wanted = _fitting(batch, seen, size), batch
    steps = max(1, epochs * seen.samples // min(batch, seen.samples))
    reasons = [f"input: {seen.reason}"]
    if size.width is not None:
        reasons.append(f"network: width {size.width}, of {' and '.join(str(one.width) for one in sizes)}")
    reasons.append(f"training: {epochs} epochs of {seen.samples} samples, {batch} a step, in about {minutes:g} minutes")
    if batch < wanted:
        reasons.append(f"memory: {batch} samples a step and not {wanted}, since no more fit")
    rare = min((share, name) for share, name in zip(data.shares, classes, strict=True))
    reasons.append(
        f"loss: {_OBJECTIVE}, classes weighted by their rarity (the rarest is {rare[1]!r}, {rare[0]:.2%} of the pixels)"
    )
    return Recipe(
        resize=seen.resize,
        height_px=seen.height_px,
        width_px=seen.width_px,
        tile_scale=seen.scale if seen.resize == "tile" else 1.0,
        width=size.width,
        objective=_OBJECTIVE,
        class_weights=_weights(data),
        batch_rows=batch,
        epochs=epochs,
        learning_rate=0.002,
        ema_decay=round(min(0.998, 1 - 20 / (steps + 20)), 4),
        evaluate_every_epochs=max(1, epochs // _EVALUATIONS),
        half_size=_HALF_SIZE,
        scale=(0.75, 1.75) if data.size_in_pixels or data.size_spread <= _MIXED else (0.7, 2.0),
        vertical_flip=not data.has_up,
        reasons=tuple(reasons),
    )


def _fitting(batch: int, seen: _Input, size: Size) -> int:
    """The batch, halved until it fits into the memory; at least 1."""
    while batch > 1 and size.memory_px is not None and batch * seen.area_px > size.memory_px:
        batch //= 2
    return batch


def _size(
    data: Fingerprint, classes: Sequence[str], images: int, minutes: float, sizes: Sequence[Size], given: Given
) -> tuple[Size, _Input]:
    """The widest network that can see enough samples in the time, or else the narrowest, and its input."""
    found = []
    for size in sizes:
        pixels = size.pixels_per_s * minutes * 60 * _USED / _COST
        whole = _input(data, classes, images, given, float("inf"))
        if found and pixels / whole.area_px < _WIDE_SAMPLES:
            break
        affordable = pixels / max(_LEAST_PASSES * images, _LEAST_SAMPLES)
        fitting = float("inf") if size.memory_px is None else size.memory_px
        found.append((size, _input(data, classes, images, given, min(affordable, fitting))))
    return found[-1]


def _input(data: Fingerprint, classes: Sequence[str], images: int, given: Given, affordable_px: float) -> _Input:
    """What the network sees, if the time is enough for inputs of ``affordable_px`` pixels."""
    thin = data.thinnest()
    wanted = 1.0 if thin is None or thin[1] < _THICK_PX / _NEARLY else _THICK_PX / thin[1]
    wanted = given.tile_scale or wanted
    full = data.height * data.width * wanted**2
    is_mixed = data.size_spread > _MIXED and data.size_in_pixels and max(map(max, data.sizes)) * wanted > _TILE_PX
    # A scene with an up and a down is seen whole, since where something is tells what it is.
    is_large = full > _TOO_LARGE_PX and not data.has_up
    if (given.resize or ("tile" if is_mixed or is_large else "fit")) == "tile":
        height, width = given.height_px or _TILE_PX, given.width_px or _TILE_PX
        why = "as was asked for"
        if given.resize is None:
            why = f"since images differ in size ({data.size_spread:.1f} times) and objects do not"
            why = why if is_mixed else "since images are large and what is in them is small"
        tiling = Tiling(height_px=height, width_px=width, overlap=_OVERLAP)
        return _Input(
            resize="tile",
            height_px=height,
            width_px=width,
            scale=wanted,
            samples=max(1, round(images * _tiles(data, tiling, wanted))),
            reason=f"tiles of {height} x {width} px, scaled by {wanted:.2g}, {why}",
        )
    height, width = _box(data, min(full, _MOST_AREA_PX, affordable_px))
    height, width = given.height_px or height, given.width_px or width
    scale = min(height / data.height, width / data.width)
    reason = f"{height} x {width} px, {scale:.2g} of the median image of {data.height} x {data.width}"
    if thin is not None and scale < 0.8 * wanted:
        short = "for which the time or the memory is short"
        reason += f"; {classes[thin[0]]!r}, {thin[1]:.1f} px thick, wants {wanted:.2g}, {short}"
    resize = "stretch" if given.resize == "stretch" else "fit"
    return _Input(resize=resize, height_px=height, width_px=width, scale=scale, samples=images, reason=reason)


def _box(data: Fingerprint, area: float) -> tuple[int, int]:
    """Sides with the aspect of the median image and about this area. They are the image's own if these are near."""
    factor = min(1.0, math.sqrt(area / (data.height * data.width)))
    if factor > _NEAR:
        return max(_LEAST_SIDE_PX, data.height), max(_LEAST_SIDE_PX, data.width)
    height, width = (round(side * factor / _MULTIPLE_PX) * _MULTIPLE_PX for side in (data.height, data.width))
    return max(_LEAST_SIDE_PX, height), max(_LEAST_SIDE_PX, width)


def _tiles(data: Fingerprint, tiling: Tiling, scale: float) -> float:
    """Mean number of tiles of an image."""
    counts = [
        math.prod(map(len, tiling.starts(max(1, round(height * scale)), max(1, round(width * scale)))))
        for height, width in data.sizes
    ]
    return sum(counts) / len(counts)


def _weights(data: Fingerprint) -> tuple[float, ...]:
    """The square root of the median share over the share of each class, in bounds; their weighted mean is 1."""
    present = sorted(share for share in data.shares if share > 0)
    middle = math.sqrt(present[0] * present[-1]) if len(present) == 2 else present[len(present) // 2]
    raw = [
        min(_WEIGHT_RANGE[1], max(_WEIGHT_RANGE[0], math.sqrt(middle / share))) if share > 0 else 1.0
        for share in data.shares
    ]
    mean = sum(weight * share for weight, share in zip(raw, data.shares, strict=True))
    return tuple(round(weight / mean, 3) for weight in raw)
