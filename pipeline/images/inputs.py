"""Decoding image files to upright RGB pixels with Pillow, and fitting them into a model's input size (letterbox).

Files come from anywhere and may be malicious. So the structure of a file is checked first
(`pipeline.images.structure`), and Pillow gets only the parts that the pixels depend on. The limit of pixels bounds the
memory of decoding: up to 12 bytes for each pixel, 20 for WebP, plus three times the file's size.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import (  # noqa: F401 (a plugin registers itself in Image.OPEN when it is imported)
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import InputError
from pipeline.images import isobmff, netpbm
from pipeline.images.heic import open_heic
from pipeline.images.structure import check_size, pixel_parts
from pipeline.images.tiff import GRAY_BITS, WHITE_IS_ZERO, TiffFile

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "HEIF")
#: Value around an image in its box: mid-gray, which the encoder maps to zero.
PADDING = 128
#: Value around a label in its box, and of pixels without a class.
NO_CLASS = 255

_HEAD = 1100  # bytes by which a format is known: the brands of HEIC and AVIF are the longest
_ORIENTATION = 0x0112
# The transpose that turns an image with this EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

_EXIF_POINTERS = (34665, 34853, 40965)

_FRAME = "frame of a GIF"
_CLEAR = "transparent colour of 16 bits"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An image in its box (letterbox): ``pixels`` are (height_px, width_px, 3) uint8, with the image at the top left.

    ``height`` and ``width`` are those of the upright input, ``valid_height`` and ``valid_width`` those in the box.
    """

    pixels: np.ndarray
    height: int
    width: int
    valid_height: int
    valid_width: int


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image file to upright RGB pixels, (h, w, 3) uint8.

    - Transparent pixels, and pixels that the first frame of a GIF does not cover, become white. Partly transparent
      ones are laid on white.
    - Of samples of 9 to 16 bits the 8 highest bits are used; samples of fewer than 8 bits are stretched to 0 to 255.
    - Signed and floating-point samples and integers of more than 16 bits are refused, since nobody knows their range.
      So is every layout whose colours Pillow does not read rightly; the message names it.
    - Of several frames or pages the first is used; of an animated PNG, the image for readers without animation. Data
      after the first frame of a GIF, TIFF or WebP may be broken.
    - The EXIF orientation of JPEG, PNG and WebP and the orientation of TIFF, AVIF and HEIC are applied, but not one
      that is only in XMP or in a text.
    - Colour profiles, gamma and the like are ignored: values count as sRGB. CMYK values are converted as inks without a
      profile. In JPEG they are read as inverted, as Adobe writes them, even if the file has no Adobe marker; browsers
      do the same. CIE L*a*b* of TIFF is converted to sRGB.

    Wrong bits inside a complete JPEG without restart markers cannot be detected.
    Raises `InputError`: ``empty``, ``not_an_image``, ``truncated``, ``too_many_pixels`` (before any pixel is decoded).
    """
    return np.asarray(_pixels(open_image(data, max_pixels), None))


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) of an image file as it is stored, from its header. Raises `InputError` as `decode_image` does."""
    picture = open_image(data, max_pixels)
    return picture.height, picture.width


def decode_fitted(data: bytes, max_pixels: int, height_px: int, width_px: int, *, stretch: bool = False) -> Fitted:
    """`decode_image`, then scale to the box, keep the aspect, and pad at the right and at the bottom. With ``stretch``
    the image fills the box instead, whatever its aspect.

    A JPEG far larger than the box is decoded at 1/2, 1/4 or 1/8 of its size, which is faster.
    """
    picture = open_image(data, max_pixels)
    height, width = _upright_size(picture)
    valid = (height_px, width_px) if stretch else _inside(height, width, height_px, width_px)
    # Twice the size in the box, so that the final step is still a proper resampling filter.
    draft = (2 * valid[0], 2 * valid[1])
    pixels = _boxed(_pixels(picture, draft), valid, height_px, width_px)
    return Fitted(pixels=pixels, height=height, width=width, valid_height=valid[0], valid_width=valid[1])


def decode_scaled(data: bytes, max_pixels: int, scale: float) -> tuple[np.ndarray, int, int]:
    """`decode_image`, scaled by ``scale`` <= 1, at least one pixel on each side; and height and width before that."""
    picture = open_image(data, max_pixels)
    height, width = _upright_size(picture)
    wanted = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = _pixels(picture, None if scale == 1 else (2 * wanted[0], 2 * wanted[1]))
    if picture.size != wanted[::-1]:
        picture = picture.resize((wanted[1], wanted[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(picture), height, width


def scale_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """A label (h, w) uint8 with another size, by nearest neighbours."""
    if label.shape == (height, width):
        return label
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))


def decode_label(data: bytes, height: int, width: int) -> np.ndarray:
    """The stored values of a label image of the given size, (height, width) uint8.

    It must be a palette or gray PNG of up to 8 bits. Of a gray one with 2 or 4 bits the values are those that are
    stored, 0 to 3 or 0 to 15, not their shades. Raises `InputError` ``bad_label``.
    """
    picture = _open_label(data, height, width)
    if picture.format != "PNG" or picture.mode not in ("P", "L", "1"):
        kind = "an RGB image" if picture.mode.startswith("RGB") else f"a {picture.format} of mode {picture.mode}"
        raise InputError("bad_label", f"the label is not a gray or palette PNG of 8 bits, but {kind}")
    _load_label(picture)
    values = np.array(picture, np.uint8)
    # Pillow scales gray values of 2 and 4 bits to 0 to 255.
    return values // (255 // ((1 << data[24]) - 1)) if picture.mode == "L" and data[24] < 8 else values


def decode_colors(data: bytes, height: int, width: int) -> np.ndarray:
    """The colours of a label image of the given size, (height, width, 3) uint8. It must be an opaque PNG of 8 bits.

    Raises `InputError` ``bad_label``.
    """
    picture = _open_label(data, height, width)
    if picture.format != "PNG" or picture.mode not in ("RGB", "RGBA", "P", "L", "1") or data[24] > 8:
        raise InputError("bad_label", "the label is not a PNG of 8 bits in colours")
    _load_label(picture)
    colors = np.asarray(picture.convert("RGBA"))
    if colors[..., 3].min() < 255:
        raise InputError("bad_label", "the label has transparent pixels")
    return colors[..., :3]


def decode_numbers(data: bytes, height: int, width: int) -> np.ndarray:
    """The numbers in a gray or palette PNG of the given size and up to 16 bits, (height, width). Gray of 2 and 4 bits
    is scaled to 0 to 255. Raises `InputError` ``bad_label``."""
    picture = _open_label(data, height, width)
    if picture.format != "PNG" or not (picture.mode in ("L", "P", "1") or picture.mode.startswith("I")):
        raise InputError("bad_label", "the label is not a gray or palette PNG")
    _load_label(picture)
    return np.asarray(picture)


def file_palette(data: bytes) -> list[tuple[int, int, int]] | None:
    """The colours of an indexed PNG in the order of its indices; None for other files. The file must be a sound one."""
    if not data.startswith(b"\x89PNG") or data[25] != 3:
        return None
    place = 8
    while place + 8 <= len(data):
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if name == b"PLTE":
            colors = data[place + 8 : place + 8 + length]
            return [(colors[i], colors[i + 1], colors[i + 2]) for i in range(0, len(colors) - 2, 3)]
        place += 12 + length
    return None


def _open_label(data: bytes, height: int, width: int) -> Image.Image:
    """The header of a label image. Raises `InputError` ``bad_label`` unless it is an image of this size."""
    try:
        picture = open_image(data, max_pixels=max(1, height * width))
    except InputError as reason:
        if reason.code == "too_many_pixels":
            raise InputError("bad_label", f"the label is not {height} x {width}, as the image is") from reason
        raise InputError("bad_label", f"the label cannot be read: {reason.message}") from reason
    if picture.size != (width, height):
        raise InputError("bad_label", f"the label is {picture.height} x {picture.width}, not {height} x {width}")
    return picture


def _load_label(picture: Image.Image) -> None:
    try:
        turned = _orientation(picture) in _UPRIGHT
    except InputError as reason:
        raise InputError("bad_label", f"the label cannot be read: {reason.message}") from reason
    if turned:
        raise InputError("bad_label", "the label has an EXIF orientation; labels must be stored upright")


def fit_label(label: np.ndarray, height_px: int, width_px: int, *, stretch: bool = False) -> np.ndarray:
    """Scale a label (h, w) uint8 as its image is scaled, with nearest neighbours, and pad it with `NO_CLASS`."""
    valid = (height_px, width_px) if stretch else _inside(label.shape[0], label.shape[1], height_px, width_px)
    boxed = np.full((height_px, width_px), NO_CLASS, np.uint8)
    scaled = Image.fromarray(label).resize((valid[1], valid[0]), Image.Resampling.NEAREST)
    boxed[: valid[0], : valid[1]] = np.asarray(scaled)
    return boxed


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header of an image and check its size. Nothing is decoded yet, except PPM and HEIC, which are decoded
    here.

    Image.open would compare the size with a limit that is global to the process, and warn. So this function uses
    Pillow's table of formats directly.
    """
    if not data:
        raise InputError("empty", "the file has no bytes")
    # Pillow warns about skipped tags and the like, which does not concern the row. catch_warnings cannot be used: other
    # threads decode at the same time, and would restore each other's filters.
    if list(warnings.filters[:1]) != [_QUIET]:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    name = _format(data[:_HEAD])
    if name is None:
        raise InputError("not_an_image", f"the file is none of {', '.join(FORMATS)}")
    if name == "PPM":
        return netpbm.open_netpbm(data, max_pixels)
    if name in ("AVIF", "HEIF"):
        isobmff.check(name, data, max_pixels)
    if name == "HEIF":
        return open_heic(data, max_pixels)
    parts = pixel_parts(name, data, max_pixels)
    # Pillow's own factory for JPEG would also read the additional pictures that some cameras append.
    own: dict[str, Callable[..., Any]] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffFile,
    }
    factory = own.get(name) or Image.OPEN[name][0]
    try:
        picture = factory(BytesIO(parts), "")
        _prepare(picture, parts)
    except (MemoryError, InputError):
        raise
    except Exception as reason:
        if name == "BMP" and str(reason).startswith("Unsupported BMP"):
            raise InputError("not_an_image", _unread_bmp(parts)) from reason
        raise InputError("not_an_image", f"the {name} file has a broken header") from reason
    if picture.width < 1 or picture.height < 1:
        raise InputError("not_an_image", f"the {name} file has no pixels")
    check_size(picture.width, picture.height, max_pixels)
    return picture


def _format(head: bytes) -> str | None:
    if netpbm.MAGIC.match(head):
        return "PPM"
    if len(head) < 16 and head[:4] == b"RIFF" and b"WEBP".startswith(head[8:12]):
        return "WEBP"
    accepts: dict[str, Callable[[bytes], Any]] = {
        name: Image.OPEN[name][1]  # type: ignore[misc]
        for name in FORMATS
        if name not in ("PPM", "AVIF", "HEIF")
    }
    if (boxed := isobmff.format_of(head)) is not None:
        return boxed
    return next((name for name, accept in accepts.items() if accept(head) is True), None)


def _prepare(picture: Image.Image, data: bytes) -> None:
    """Correct what Pillow gets wrong when it reads a header, or would do later without a limit."""
    if picture.format == "PNG" and "transparency" in picture.info and picture.mode != "P":
        # Pillow compares pixels, which it has scaled to 8 bits, with a transparent colour that it has not scaled.
        depth, colour = data[24], picture.info["transparency"]
        if isinstance(colour, tuple) and depth == 16:
            picture.info[_CLEAR] = (picture.info.pop("transparency"), data)
        elif isinstance(colour, tuple):
            picture.info["transparency"] = tuple(value & 255 for value in colour)
        elif picture.mode == "L":
            most = (1 << depth) - 1
            picture.info["transparency"] = (colour & most) * 255 // most
    if isinstance(picture, GifImagePlugin.GifImageFile):
        extents = picture.tile[0].extents
        if extents != (0, 0, *picture.size):
            picture.info[_FRAME] = extents
    if picture.format == "BMP" and picture.mode in ("1", "L"):
        _use_bmp_palette(picture, _bmp_depth(data))
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # After decoding, Pillow follows these pointers, however much data they point to.
        exif = picture.getexif()
        for pointer in _EXIF_POINTERS:
            if pointer in exif:
                del exif[pointer]


def _bmp_depth(data: bytes) -> int:
    """The bits of a pixel. The header's size says where they stand."""
    return struct.unpack_from("<H", data, 24 if data[14] == 12 else 28)[0]


def _unread_bmp(data: bytes) -> str:
    compression = 0 if data[14] == 12 else struct.unpack_from("<L", data, 30)[0]
    layout = f"a header of {data[14]} bytes, {_bmp_depth(data)} bits a pixel, compression {compression}"
    if compression == 3:
        layout += ", masks " + " ".join(f"{mask:08x}" for mask in struct.unpack_from("<3L", data, 54))
    return f"the BMP file has a layout that is not read: {layout}"


def _use_bmp_palette(picture: Any, depth: int) -> None:
    """Read indices of ``depth`` bits. If a palette is black and white or has the grays 0, 1, 2, ..., Pillow drops it,
    and reads pixels of one bit or of eight, whatever they are."""
    if depth == (1 if picture.mode == "1" else 8):
        return
    grays = (0, 255) if picture.mode == "1" else range(256)
    picture._mode = "P"
    picture.palette = ImagePalette.raw("RGB", bytes(gray for gray in grays for _ in range(3)))
    tile = picture.tile[0]
    picture.tile = [tile._replace(args=({1: "P;1", 4: "P;4", 8: "P"}[depth], *tile.args[1:]))]


def _load(picture: Image.Image) -> None:
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as reason:
        # Pillow has no exception type for truncated files, but all its readers use this word in the message.
        text = str(reason).lower()
        if isinstance(reason, EOFError) or "truncated" in text or "not enough image data" in text:
            raise InputError("truncated", f"the {picture.format} file ends too early") from reason
        raise InputError("not_an_image", f"the {picture.format} file has broken image data") from reason


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. All formats except JPEG are decoded first; JPEG stays undecoded for draft mode.

    Pillow's PNG reader decodes when it is asked for EXIF, and an error of that must not be swallowed below. Its TIFF
    reader turns the image upright when it decodes, and has no orientation afterwards.
    """
    picture.info.pop("xmp", None)
    if picture.format != "JPEG":
        _load(picture)
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # A broken EXIF block is treated as none, since the pixels do not depend on it.
        return 1


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) after rotation. Draft mode, used later, does not change this result."""
    turned = _orientation(picture) in (5, 6, 7, 8)
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _pixels(picture: Image.Image, draft: tuple[int, int] | None) -> Image.Image:
    """Decode to upright RGB. ``draft`` is the smallest (height, width) of the upright image that is sufficient."""
    orientation = _orientation(picture)
    if draft and picture.format == "JPEG":
        height, width = draft[::-1] if orientation in (5, 6, 7, 8) else draft
        # Pillow keeps both sides at least as large as asked.
        picture.draft(None, (width, height))
    _load(picture)
    try:
        picture = _rgb(picture)
    except ValueError as reason:  # Pillow finds a broken palette or transparency only when it is used
        raise InputError("not_an_image", f"the {picture.format} file has colours that cannot be read") from reason
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _rgb(picture: Image.Image) -> Image.Image:
    transparency = picture.info.get("transparency")
    frame = picture.info.get(_FRAME)
    if picture.mode == "F":
        raise InputError("not_an_image", "pixels are floating-point numbers, whose range nobody knows")
    if picture.mode.startswith("I"):
        return _high_bytes(picture, transparency if isinstance(transparency, int) else None)
    if picture.mode in ("La", "RGBa"):  # Pillow converts these to nothing else
        picture = picture.convert(picture.mode.upper())
    # Pasting needs less memory than Image.alpha_composite, which needs three pictures of four channels.
    if transparency is not None or picture.mode in ("RGBA", "LA", "PA"):
        picture = picture.convert("RGBA")
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture)
        picture = opaque
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    elif _CLEAR in picture.info:
        _clear(picture, *picture.info[_CLEAR])
    if frame is not None:
        canvas = Image.new("RGB", picture.size, "white")
        canvas.paste(picture.crop(frame), frame)
        picture = canvas
    return picture


def _clear(picture: Image.Image, colour: tuple[int, int, int], data: bytes) -> None:
    """Make the pixels of a PNG with 16 bits white that have exactly this colour. Pillow keeps the high bytes only."""
    low: Any = PngImagePlugin.PngImageFile(BytesIO(data))
    low.tile = [low.tile[0]._replace(args="RGB;16L")]  # of a sample, the second byte
    _load(low)
    rows = max(1, (1 << 20) // picture.width)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        both = ((picture, [value >> 8 for value in colour]), (low, [value & 255 for value in colour]))
        same = np.logical_and.reduce([(np.asarray(part.crop(box)) == value).all(2) for part, value in both])
        picture.paste((255, 255, 255), box, Image.fromarray(same))


def _high_bytes(picture: Image.Image, transparency: int | None) -> Image.Image:
    """Gray of 9 to 16 bits to RGB, by the 8 highest bits; Pillow would clip at 255. It converts 16-bit RGB itself."""
    values = np.asarray(picture)
    shift = picture.info.get(GRAY_BITS, 16) - 8
    gray = np.empty(values.shape, np.uint8)
    rows = max(1, (1 << 20) // values.shape[1])  # in pieces, to avoid a second picture of wide integers
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.int32)
        gray[start : start + rows] = (part >> shift).clip(0, 255)
        if transparency is not None:
            gray[start : start + rows][part == transparency] = 255
    if picture.info.get(WHITE_IS_ZERO):
        np.subtract(255, gray, out=gray)
    return Image.fromarray(gray).convert("RGB")


def _inside(height: int, width: int, height_px: int, width_px: int) -> tuple[int, int]:
    """Size of an image in its box: as large as its aspect allows, and at least one pixel on each side."""
    # Integer arithmetic, so that the side that fills the box has exactly the box's size.
    if height * width_px >= width * height_px:
        return height_px, max(1, (2 * width * height_px + height) // (2 * height))
    return max(1, (2 * height * width_px + width) // (2 * width)), width_px


def _boxed(picture: Image.Image, valid: tuple[int, int], height_px: int, width_px: int) -> np.ndarray:
    """The picture at the size ``valid`` (height, width), padded to the box."""
    if picture.size != valid[::-1]:
        picture = picture.resize((valid[1], valid[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    boxed = np.full((height_px, width_px, 3), PADDING, np.uint8)
    boxed[: valid[0], : valid[1]] = np.asarray(picture)
    return boxed
