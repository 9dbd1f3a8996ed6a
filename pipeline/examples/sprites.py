"""Scenes of two to four coloured shapes on a background, with the shape of every pixel: for regions without labels.

The scenes are as those of multi-object data sets (Kabra et al. 2019), but small. A scene depends on its seed alone.
"""

from __future__ import annotations

import colorsys

import numpy as np

#: Names of the shapes.
SHAPES = ("disc", "square", "triangle", "diamond")
#: The fewest and the most shapes of a scene.
COUNTS = (2, 4)

_NOISE = 0.01  # deviation of the noise of each value, in [0, 1]
_TRIES = 50


def sprite_scene(seed: int | tuple[int, ...], size_px: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """An image (size, size, 3) uint8, and for each pixel the number of its shape (size, size) uint8; 0 is background.

    The background has one colour, or runs from one colour to another. Centres of shapes are at least about a shape
    apart, so that shapes cover each other a little at most; later shapes are in front. Edges are hard.
    """
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[0:size_px, 0:size_px].astype(np.float32) + 0.5) / size_px
    image = _background(random, y, x)
    ids = np.zeros((size_px, size_px), np.uint8)
    placed: list[tuple[float, float, float]] = []
    for number in range(1, random.integers(COUNTS[0], COUNTS[1], endpoint=True) + 1):
        radius = random.uniform(0.12, 0.19)
        middle = _place(random, radius, placed)
        placed.append((*middle, radius))
        inside = _inside(str(random.choice(SHAPES)), y - middle[0], x - middle[1], radius, random.uniform(0, np.pi))
        image[inside] = colorsys.hsv_to_rgb(random.uniform(0, 1), random.uniform(0.6, 1), random.uniform(0.6, 1))
        ids[inside] = number
    image = image + random.normal(0, _NOISE, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), ids


def sprite_scenes(seed: int, count: int, size_px: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """``count`` scenes: images (n, size, size, 3) and shapes (n, size, size), uint8."""
    found = [sprite_scene((seed, index), size_px) for index in range(count)]
    return np.stack([image for image, _ in found]), np.stack([ids for _, ids in found])


def _background(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    first, second = random.uniform(0.1, 0.5, (2, 3))
    if random.random() < 0.5:
        second = first
    angle = random.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + (y - 0.5) * np.sin(angle) + (x - 0.5) * np.cos(angle), 0, 1)[..., None]
    return (first * (1 - share) + second * share).astype(np.float32)


def _place(random: np.random.Generator, radius: float, placed: list[tuple[float, float, float]]) -> tuple[float, float]:
    """A centre that is far enough from the others, or the farthest of many."""
    tried = random.uniform(radius, 1 - radius, (_TRIES, 2))
    if not placed:
        return tuple(tried[0])
    others = np.array(placed)
    room = np.linalg.norm(tried[:, None] - others[None, :, :2], axis=2) - 0.9 * (radius + others[:, 2])
    free = room.min(1)
    return tuple(tried[np.argmax(free > 0) if (free > 0).any() else free.argmax()])


def _inside(shape: str, y: np.ndarray, x: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Which pixels are inside a shape around the origin that fits into a circle."""
    if shape == "disc":
        return y**2 + x**2 < (0.9 * radius) ** 2
    v, u = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    if shape == "square":
        return np.maximum(abs(v), abs(u)) < 0.78 * radius
    if shape == "diamond":
        return abs(v) / 1.0 + abs(u) / 0.7 < radius
    return (v > -0.6 * radius) & (v < radius - 1.6 * abs(u))
