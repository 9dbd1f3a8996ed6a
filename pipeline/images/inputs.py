"""Bytes to upright RGB pixels, and RGB pixels to the box that a model takes. Pillow only."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import (  # noqa: F401 (a plugin registers itself in Image.OPEN when it is imported)
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import InputError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
#: What surrounds an image in its box: mid-gray, which a model sees as zero.
PADDING = 128
#: What surrounds a label in its box, and what a pixel without a class becomes.
NO_CLASS = 255

_ORIENTATION = 0x0112
# The transpose that brings an image with this EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A marker of a JPEG stream; not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _TEMPORARY = 0xD8, 0xD9, 0x01


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An image in its box: ``pixels`` (height_px, width_px, 3) uint8, of which the top left part is the image.

    ``height`` and ``width`` are the upright input's, ``valid_height`` and ``valid_width`` those inside the box.
    """

    pixels: np.ndarray
    height: int
    width: int
    valid_height: int
    valid_width: int


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """An encoded image as upright RGB, (h, w, 3) uint8.

    What is transparent is put on white. Of 16-bit channels the high byte is taken. Of several frames the first is
    taken. The EXIF orientation is applied. Raises `InputError`: ``empty``, ``not_an_image``, ``truncated``,
    ``too_many_pixels`` (before any pixel is decoded).
    """
    return np.asarray(_pixels(_open(data, max_pixels), None))


def fit(image: np.ndarray, height_px: int, width_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The image (h, w, 3) scaled to the box, aspect kept, padded at the right and the bottom; and its size inside."""
    pixels, valid = _boxed(Image.fromarray(image), image.shape[:2], height_px, width_px)
    return pixels, valid


def decode_fitted(data: bytes, max_pixels: int, height_px: int, width_px: int) -> Fitted:
    """`decode_image`, then `fit`, but a JPEG far larger than the box is decoded at 1/2, 1/4 or 1/8 of its size."""
    picture = _open(data, max_pixels)
    height, width = _upright_size(picture)
    valid = _inside(height, width, height_px, width_px)
    # At twice the size inside the box, so that the last step is a proper filter still.
    draft = (2 * valid[0], 2 * valid[1])
    pixels, valid = _boxed(_pixels(picture, draft), (height, width), height_px, width_px)
    return Fitted(pixels=pixels, height=height, width=width, valid_height=valid[0], valid_width=valid[1])


def decode_label(data: bytes, height: int, width: int) -> np.ndarray:
    """A label image of the given size as (height, width) uint8, where the stored value is the class id.

    Palette or gray PNG of up to 8 bits; the palette's colours do not matter. Raises `InputError` ``bad_label``.
    """
    try:
        picture = _open(data, max_pixels=max(1, height * width))
        if picture.size != (width, height):
            raise InputError("bad_label", f"the label is {picture.height} x {picture.width}, not {height} x {width}")
        if picture.format != "PNG" or picture.mode not in ("P", "L", "1"):
            raise InputError("bad_label", "the label is not a gray or palette PNG of 8 bits")
        _load(picture)
    except InputError as reason:
        if reason.code == "bad_label":
            raise
        if reason.code == "too_many_pixels":
            raise InputError("bad_label", f"the label is not {height} x {width}, as the image is") from reason
        raise InputError("bad_label", f"the label cannot be read: {reason.message}") from reason
    return np.array(picture, np.uint8)


def fit_label(label: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """The label (h, w) uint8 scaled as `fit` scales its image, nearest pixel, padded with `NO_CLASS`."""
    valid = _inside(label.shape[0], label.shape[1], height_px, width_px)
    boxed = np.full((height_px, width_px), NO_CLASS, np.uint8)
    scaled = Image.fromarray(label).resize((valid[1], valid[0]), Image.Resampling.NEAREST)
    boxed[: valid[0], : valid[1]] = np.asarray(scaled)
    return boxed


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read and its size checked, nothing decoded.

    Image.open would compare the size with a limit that is global to the process, and warn; so its table of formats is
    asked directly.
    """
    if not data:
        raise InputError("empty", "the file has no bytes")
    accepts: dict[str, Callable[[bytes], Any]] = {name: Image.OPEN[name][1] for name in FORMATS}  # type: ignore[misc]
    name = next((name for name in FORMATS if accepts[name](data[:16]) is True), None)
    if name is None:
        raise InputError("not_an_image", f"the file is none of {', '.join(FORMATS)}")
    if not _is_whole(data, name):
        raise InputError("truncated", f"the {name} file ends too early")
    # Not Pillow's factory for JPEG: it reads the further pictures that some cameras append.
    factory: Callable[..., Any] = JpegImagePlugin.JpegImageFile if name == "JPEG" else Image.OPEN[name][0]
    try:
        picture = factory(BytesIO(data), "")
    except MemoryError:
        raise
    except Exception as reason:
        raise InputError("not_an_image", f"the {name} file has a broken header") from reason
    if picture.width * picture.height > max_pixels:
        size = f"{picture.height} x {picture.width}"
        raise InputError("too_many_pixels", f"the image has {size} pixels, the limit is {max_pixels} in all")
    if picture.width < 1 or picture.height < 1:
        raise InputError("not_an_image", f"the {name} file has no pixels")
    return picture


def _is_whole(data: bytes, name: str) -> bool:
    """Whether the file has its end. Pillow is content with some files whose last bytes are missing."""
    if name == "JPEG":
        return _jpeg_has_end(data)
    if name == "PNG":
        return _png_has_end(data)
    if name == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _jpeg_has_end(data: bytes) -> bool:
    """Walk the segments (ITU T.81, B.1.1) to the end-of-image marker; a thumbnail inside a segment has its own."""
    position = 0
    while found := _JPEG_MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            return True
        if marker not in (_START_OF_IMAGE, _TEMPORARY):
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return False


def _png_has_end(data: bytes) -> bool:
    """Walk the chunks (ISO/IEC 15948, 5.3) to the last. Pillow skips the checksums of image data, and wrong pixels are
    worse than none: a chunk that a reader must understand and that fails its checksum is an error."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if end + 4 > len(data):
            return False
        is_critical = name[:1].isupper()
        if is_critical and zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError("not_an_image", "the PNG file has a chunk that fails its checksum")
        if name == b"IEND":
            return True
        position = end + 4
    return False


def _load(picture: Image.Image) -> None:
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as reason:
        # Pillow has no type for this; the word is in the message of all its readers.
        if isinstance(reason, EOFError) or "truncated" in str(reason).lower():
            raise InputError("truncated", f"the {picture.format} file ends too early") from reason
        raise InputError("not_an_image", f"the {picture.format} file has broken image data") from reason


def _orientation(picture: Image.Image) -> int:
    """Its EXIF orientation; decodes all but JPEG, which draft mode wants undecoded.

    Pillow's PNG reader decodes when it is asked for EXIF, and the error of that must not be lost below; its TIFF reader
    turns the image when it decodes, and then has no orientation left.
    """
    if picture.format != "JPEG":
        _load(picture)
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # A broken EXIF block is as good as none; the pixels are sound.
        return 1


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) after rotation, also when the picture is in draft mode later."""
    turned = _orientation(picture) in (5, 6, 7, 8)
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _pixels(picture: Image.Image, draft: tuple[int, int] | None) -> Image.Image:
    """Decoded, upright, RGB. ``draft``: the (height, width), upright, that is enough."""
    orientation = _orientation(picture)
    if draft and picture.format == "JPEG":
        height, width = draft[::-1] if orientation in (5, 6, 7, 8) else draft
        # Pillow keeps both sides at least as large as asked.
        picture.draft(None, (width, height))
    _load(picture)
    picture = _rgb(picture)
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode == "F":
        raise InputError("not_an_image", "pixels are floating-point numbers, whose range nobody knows")
    if picture.mode.startswith("I"):
        # Pillow would clip at 255. Of 16-bit RGB it takes the high byte itself.
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((values.clip(0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _inside(height: int, width: int, height_px: int, width_px: int) -> tuple[int, int]:
    """Size of an image inside its box: as large as its aspect allows, at least one pixel."""
    # Integers only: whichever side touches the box is exact.
    if height * width_px >= width * height_px:
        return height_px, max(1, (2 * width * height_px + height) // (2 * height))
    return max(1, (2 * height * width_px + width) // (2 * width)), width_px


def _boxed(
    picture: Image.Image, upright: tuple[int, ...], height_px: int, width_px: int
) -> tuple[np.ndarray, tuple[int, int]]:
    valid = _inside(upright[0], upright[1], height_px, width_px)
    if picture.size != valid[::-1]:
        picture = picture.resize((valid[1], valid[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    boxed = np.full((height_px, width_px, 3), PADDING, np.uint8)
    boxed[: valid[0], : valid[1]] = np.asarray(picture)
    return boxed, valid
