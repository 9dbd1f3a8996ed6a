"""Image files that are broken, odd or unusual, made in memory, each with the result that it must have."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth image (h, w, 3) uint8 that shows its orientation: red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x // max(1, width - 1), 255 * y // max(1, height - 1)
    return np.stack([red, green, np.full_like(red, 64)], 2).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    """A file that looks like `picture` after its EXIF orientation is applied."""
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(picture()).transpose(undo[orientation]), kind, quality=95, exif=exif)


def broken() -> dict[str, tuple[bytes, str]]:
    """Broken files by name, each with the error code that it must get."""
    jpeg, png = encoded(picture(), "JPEG", quality=95), encoded(picture(), "PNG")
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "an end of image inside a segment: \xff\xd9"
    damaged = bytearray(png)
    damaged[png.index(b"IDAT") + 20] ^= 0xFF
    return {
        "zero bytes": (b"", "empty"),
        "text named jpg": (b"this is a note, not a photograph\n" * 20, "not_an_image"),
        "pdf": (b"%PDF-1.7\n" + bytes(100), "not_an_image"),
        "jpeg, half": (jpeg[: len(jpeg) // 2], "truncated"),
        "jpeg, header only": (jpeg[:40], "truncated"),
        "jpeg without its last two bytes": (jpeg[:-2], "truncated"),
        "jpeg without its last byte": (jpeg[:-1], "truncated"),
        "jpeg, cut, with an end marker in a segment": (
            encoded(picture(), "JPEG", exif=thumbnail)[:-2],
            "truncated",
        ),
        "progressive jpeg, cut": (encoded(picture(), "JPEG", progressive=True)[:-2], "truncated"),
        "png, half": (png[: len(png) // 2], "truncated"),
        "png without its end": (png[:-12], "truncated"),
        "png, one bit flipped": (bytes(damaged), "not_an_image"),
        "webp, cut": (encoded(picture(), "WEBP")[:-4], "truncated"),
        "signature alone": (b"\x89PNG\r\n\x1a\n", "truncated"),
        "floating-point tiff": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "not_an_image"),
    }


def odd() -> dict[str, tuple[bytes, tuple[int, int, int]]]:
    """Odd files of one colour by name, each with its colour. They must be readable."""
    size = (9, 7)
    gray16 = Image.fromarray(np.full(size, 0x80FF, np.uint16))
    half = Image.new("RGBA", size, (200, 0, 0, 128))
    indexed = Image.new("P", size, 1)
    indexed.putpalette([0, 0, 0, 10, 200, 30])
    frames = [Image.new("RGB", size, color) for color in ((0, 0, 255), (255, 0, 0))]
    return {
        "cmyk jpeg": (encoded(Image.new("CMYK", size, (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        "gray jpeg": (encoded(Image.new("L", size, 77), "JPEG", quality=100), (77, 77, 77)),
        "16-bit gray png": (encoded(gray16, "PNG"), (128, 128, 128)),
        "16-bit gray tiff": (encoded(gray16, "TIFF"), (128, 128, 128)),
        "bilevel png": (encoded(Image.new("1", size, 1), "PNG"), (255, 255, 255)),
        # 200 x 128/255 + 255 x 127/255 = 227.4; 0 + 127 = 127.
        "rgba png": (encoded(half, "PNG"), (227, 127, 127)),
        "gray with alpha": (encoded(Image.new("LA", size, (0, 0)), "PNG"), (255, 255, 255)),
        "palette png": (encoded(indexed, "PNG"), (10, 200, 30)),
        "palette png, transparent": (encoded(indexed, "PNG", transparency=1), (255, 255, 255)),
        "rgb png, one colour transparent": (
            encoded(Image.new("RGB", size, (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
            (255, 255, 255),
        ),
        "animated gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (0, 0, 255)),
        "bmp": (encoded(frames[1], "BMP"), (255, 0, 0)),
        "ppm": (encoded(frames[1], "PPM"), (255, 0, 0)),
        "jpeg with bytes after its end": (encoded(frames[0], "JPEG", quality=100) + b"more", (0, 0, 254)),
    }
