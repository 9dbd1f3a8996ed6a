"""Labelled image data sets of several kinds, to hold segmenters against each other: made of CamVid, and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from pipeline.images.outputs import encode_mask

_SPLITS = ("train", "val", "test")
_COLORS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (64, 0, 128),
           (64, 64, 0))  # fmt: skip
#: The id in each set of the classes of CamVid, in its order: sky, building, pole, road, pavement, tree, sign, fence,
#: car, pedestrian, bicyclist.
_SMALL = (0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1)
_EIGHT = (0, 1, 2, 3, 4, 5, 2, 1, 6, 7, 7)
_VOID = 11
_TRAIN_OF_EIGHT = 100
_CELLS = {"train": 60, "val": 12, "test": 30}


def camvid_small_objects(camvid: Path, folder: Path) -> Path:
    """Two classes: poles, signs, pedestrians and bicyclists against all the rest."""
    return _relabelled(camvid, folder, ("rest", "small"), _SMALL, None)


def camvid_eight_classes(camvid: Path, folder: Path) -> Path:
    """Eight classes, and only the first 100 images to train on."""
    names = ("sky", "building", "pole", "road", "pavement", "tree", "car", "person")
    return _relabelled(camvid, folder, names, _EIGHT, _TRAIN_OF_EIGHT)


def cells(folder: Path) -> Path:
    """Drawn cells that touch, in images of 256 to 1,024 pixels; half of them gray, half stained. Cells have the same
    size in pixels in all images."""
    if (folder / "classes.json").exists():
        return folder
    for number, split in enumerate(_SPLITS):
        lines = []
        for index in range(_CELLS[split]):
            image, label = cell_image(1000 * number + index)
            name = f"{split}-{index:03d}.png"
            _write(folder / "images" / name, _png(image))
            _write(folder / "labels" / name, encode_mask(label, _COLORS[:2]))
            lines.append(f"images/{name} labels/{name}")
        _write(folder / f"{split}.txt", ("\n".join(lines) + "\n").encode())
    _describe(folder, ("background", "cell"), None)
    return folder


def cell_image(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of cells, (h, w, 3) uint8, and its label, (h, w) uint8 with 1 for cells."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.choice((256, 360, 512, 768, 1024), 2))
    label = np.zeros((height, width), np.uint8)
    shade = np.zeros((height, width), np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(int(height * width / 2600 * random.uniform(0.4, 1.2))):
        row, column, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(6, 20)
        reach = int(2 * radius)
        part = np.s_[max(0, int(row) - reach) : int(row) + reach, max(0, int(column) - reach) : int(column) + reach]
        angle = np.arctan2(y[part] - row, x[part] - column)
        edge = radius * (1 + 0.15 * np.sin(angle * random.integers(2, 5) + random.uniform(0, 6)))
        distance = np.hypot((y[part] - row) * random.uniform(0.8, 1.25), x[part] - column)
        inside = distance < edge
        label[part][inside] = 1
        shade[part][inside] = random.uniform(0.35, 1.0) * (1 - 0.4 * distance[inside] / radius)
    noise = _texture(random, height, width, 9) * 0.35 + _texture(random, height, width, 1.5) * 0.3
    light = 0.25 * (x / width - 0.5) * random.uniform(-1, 1) + 0.25 * (y / height - 0.5) * random.uniform(-1, 1)
    value = np.clip(shade * random.uniform(0.35, 0.7) + noise + light + 0.25, 0, 1)
    if seed % 2:
        ink, paper = np.array([0.35, 0.2, 0.5], np.float32), np.array([0.95, 0.85, 0.92], np.float32)
        pixels = paper + (ink - paper) * value[..., None]
    else:
        pixels = np.repeat(value[..., None], 3, axis=2)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8), label


#: The sets by name: each is written to a folder, from that of CamVid where it needs it.
SETS: dict[str, Callable[[Path | None, Path], Path | None]] = {
    "camvid-small": lambda camvid, folder: camvid and camvid_small_objects(camvid, folder),
    "camvid-8x100": lambda camvid, folder: camvid and camvid_eight_classes(camvid, folder),
    "cells": lambda camvid, folder: cells(folder),
}


def _relabelled(camvid: Path, folder: Path, names: Sequence[str], ids: Sequence[int], most: int | None) -> Path:
    if (folder / "classes.json").exists():
        return folder
    table = np.full(256, 255, np.uint8)
    table[: len(ids)] = ids
    for split in _SPLITS:
        lines = [line.split() for line in (camvid / f"{split}.txt").read_text().splitlines() if line.strip()]
        for image, label in lines[: most if split == "train" else None]:
            _write(folder / image, (camvid / image).read_bytes())
            with Image.open(camvid / label) as picture:
                _write(folder / label, encode_mask(table[np.asarray(picture)], _COLORS[: len(names)]))
        kept = lines[: most if split == "train" else None]
        _write(folder / f"{split}.txt", "".join(f"{image} {label}\n" for image, label in kept).encode())
    _describe(folder, names, 255)
    return folder


def _describe(folder: Path, names: Sequence[str], ignore: int | None) -> None:
    """Last, so that a folder that has it is whole."""
    content = {"classes": list(names), "palette": [list(color) for color in _COLORS[: len(names)]]}
    _write(folder / "classes.json", json.dumps(content | {"ignore_index": ignore}).encode())


def _texture(random: np.random.Generator, height: int, width: int, size: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(random.standard_normal((height, width)).astype(np.float32), size)
    return smooth / (4 * smooth.std())


def _png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
