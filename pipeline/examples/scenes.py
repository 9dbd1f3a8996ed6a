"""Synthetic labelled scenes: five textured classes with overlapping colours, so that a segmenter has to learn.

They are for demonstrations and tests without data. Results on them say nothing about quality on photographs.
"""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.images.outputs import encode_mask

CLASSES = ("sky", "hill", "field", "building", "tree")
PALETTE = ((128, 176, 224), (120, 112, 96), (176, 192, 96), (176, 80, 72), (48, 112, 64))
_TINTS = np.array([(150, 180, 215), (120, 118, 110), (150, 150, 90), (160, 120, 105), (80, 115, 80)], np.float32)


def scene(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (h, w, 3) uint8 and its label (h, w) uint8. They depend only on the seed and the size."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    label = np.zeros((height, width), np.uint8)
    horizon = height * random.uniform(0.35, 0.6) + _wave(random, x / width) * height * 0.12
    label[y > horizon] = 1
    label[y > horizon + height * random.uniform(0.08, 0.2)] = 2
    for _ in range(random.integers(1, 4)):
        left, wide, tall = random.uniform(0, 0.8), random.uniform(0.08, 0.25), random.uniform(0.15, 0.4)
        foot = height * random.uniform(0.6, 0.85)
        inside = (x >= left * width) & (x < (left + wide) * width) & (y < foot) & (y > foot - tall * height)
        label[inside] = 3
    for _ in range(random.integers(1, 5)):
        middle = random.uniform(0, width), random.uniform(0.45, 0.85) * height
        radius = random.uniform(0.05, 0.16) * height
        angle = np.arctan2(y - middle[1], x - middle[0])
        edge = radius * (1 + 0.2 * np.sin(angle * random.integers(4, 9) + random.uniform(0, 6)))
        label[np.hypot(x - middle[0], y - middle[1]) < edge] = 4
    texture = _textures(random, y, x)
    tint = _TINTS + random.normal(0, 14, (len(CLASSES), 3))
    image = tint[label] + np.take_along_axis(texture, label[None].astype(np.int64), 0)[0][..., None]
    image = image * random.uniform(0.75, 1.2) + random.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), label


def write_scenes(folder: str, counts: dict[str, int], *, seed: int = 0, height: int = 120, width: int = 160) -> None:
    """Write a labelled image folder with ``counts`` JPEG scenes for each split. Sizes vary by up to a fifth."""
    number = 0
    for split, count in counts.items():
        lines = []
        for index in range(count):
            random = np.random.default_rng([seed, number])
            number += 1
            size = [round(side * random.uniform(0.8, 1.2)) for side in (height, width)]
            image, label = scene(int(random.integers(1 << 31)), *size)
            names = f"images/{split}/{index:04d}.jpg", f"labels/{split}/{index:04d}.png"
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, "JPEG", quality=90)
            storage.write(storage.join(folder, names[0]), picture.getvalue())
            storage.write(storage.join(folder, names[1]), encode_mask(label, PALETTE))
            lines.append(" ".join(names) + "\n")
        storage.write(storage.join(folder, f"{split}.txt"), "".join(lines).encode())
    described = {"classes": CLASSES, "palette": PALETTE, "ignore_index": None}
    storage.write(storage.join(folder, "classes.json"), json.dumps(described).encode())


def _wave(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    waves = [np.sin(x * random.uniform(2, 9) * k + random.uniform(0, 6)) / k for k in (1, 2, 3)]
    return np.sum(waves, axis=0)


def _textures(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The texture of each class, (k, h, w): smooth, rough, furrows, a grid of windows, speckles."""
    height, width = y.shape
    speckle = random.normal(0, 1, (height, width)).astype(np.float32)
    slope = random.uniform(-0.6, 0.6)
    furrows = np.sin((y + slope * x) * 2 * np.pi / random.uniform(5, 8))
    windows = ((x % 8 < 4) & (y % 10 < 5)).astype(np.float32)
    rough = np.kron(random.normal(0, 1, (height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[:height, :width]
    layers = [12 * _wave(random, x / width), 16 * rough, 22 * furrows, 50 * (windows - 0.4), 30 * speckle]
    return np.stack(layers).astype(np.float32)
