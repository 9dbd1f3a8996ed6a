"""What the peers do with an image, by OpenCV: decode at a reduced scale, letterbox, masks at the image's size, PNG.

A mask is the class with the largest logit after bilinear interpolation, as in our tables.
"""

from __future__ import annotations

import io
from typing import Any

import cv2  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline import package

HEIGHT_PX, WIDTH_PX = 180, 240
_PADDING = 128
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def network(uri: str, threads: int) -> nn.Module:
    """The network of a package, with torch and OpenCV limited to so many threads."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    return package.load(uri).model()


def boxed(data: bytes) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """An image in the box, (180, 240, 3) uint8 RGB; its own size and its size in the box, both (h, w)."""
    with Image.open(io.BytesIO(data)) as header:  # reads no pixels
        width, height = header.size
    scale = min(HEIGHT_PX / height, WIDTH_PX / width)
    valid = max(1, round(height * scale)), max(1, round(width * scale))
    factor = next((number for number in _REDUCED if height >= 2 * number * valid[0]), 1)
    flag = _REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    assert pixels is not None, "OpenCV cannot decode it"
    found = np.full((HEIGHT_PX, WIDTH_PX, 3), _PADDING, np.uint8)
    inside = cv2.resize(pixels, valid[::-1], interpolation=cv2.INTER_AREA)
    cv2.cvtColor(inside, cv2.COLOR_BGR2RGB, dst=inside)
    found[: valid[0], : valid[1]] = inside
    return found, (height, width), valid


def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The logits (b, k, 180, 240) of boxed images (b, 180, 240, 3)."""
    with torch.inference_mode():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()


def mask(scores: np.ndarray, size: tuple[int, int], valid: tuple[int, int]) -> np.ndarray:
    """The class ids (h, w) uint8 at the image's own size, from the logits (k, 180, 240) of an image."""
    best = cv2.resize(scores[0, : valid[0], : valid[1]], size[::-1], interpolation=cv2.INTER_LINEAR)
    found = np.zeros(size, np.uint8)
    for index in range(1, len(scores)):
        plane = cv2.resize(scores[index, : valid[0], : valid[1]], size[::-1], interpolation=cv2.INTER_LINEAR)
        found[plane > best] = index
        cv2.max(plane, best, dst=best)
    return found


def png(ids: np.ndarray) -> bytes:
    """Class ids as a gray PNG, at the level that is fastest."""
    is_done, data = cv2.imencode(".png", ids, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert is_done
    return data.tobytes()


def rows(model: nn.Module, boxes: np.ndarray, sizes: list[Any], valids: list[Any]) -> list[bytes]:
    """The masks of a batch as PNG."""
    found = logits(model, boxes)
    return [png(mask(*item)) for item in zip(found, map(tuple, sizes), map(tuple, valids), strict=True)]
