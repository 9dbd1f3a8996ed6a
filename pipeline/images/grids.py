"""Tiling many small pictures into one, and encoding pictures as PNG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

_GAP_PX = 2
_GROUND = 255
# Smaller pictures are enlarged by a whole number, so that people can see them.
_LEGIBLE_PX = 56


def to_pixels(image: Tensor) -> np.ndarray:
    """Convert gray or colour images (b, c, h, w) in [0, 1] to (b, h, w, c) uint8."""
    return (image.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Arrange pictures (n, h, w, c) uint8 in a grid of ``columns``, with white gaps. Returns (height, width, 3)."""
    count, height, width, _ = pictures.shape
    scale = max(1, _LEGIBLE_PX // max(height, width))
    pictures = np.broadcast_to(pictures, (count, height, width, 3)).repeat(scale, 1).repeat(scale, 2)
    height, width = height * scale + _GAP_PX, width * scale + _GAP_PX
    rows = -(-count // columns)
    result = np.full((rows * height + _GAP_PX, columns * width + _GAP_PX, 3), _GROUND, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height + _GAP_PX, index % columns * width + _GAP_PX
        result[top : top + height - _GAP_PX, left : left + width - _GAP_PX] = picture
    return result


def encode_png(picture: np.ndarray) -> bytes:
    """Encode a picture (h, w, 3), or (h, w, 1) for gray, uint8, as PNG."""
    assert picture.dtype == np.uint8, picture.dtype
    buffer = BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()
