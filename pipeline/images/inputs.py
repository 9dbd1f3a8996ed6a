"""Bytes to upright RGB pixels, and RGB pixels to the box that a model takes. Pillow, and its libraries.

Files come from anywhere, so a file is read in three steps. First its structure is walked here: what is cut off, what
claims more pixels than are allowed, what is built to cost far more than its size, is refused before anything is
decoded. Then Pillow gets only the parts that pixels depend on: no profiles, texts, thumbnails or further frames, whose
defects say nothing about the pixels and which are where most bombs hide. Last it decodes, into memory that the limit
of pixels bounds: up to 12 bytes for each pixel, of WebP 20, and three times the file's size.
"""

from __future__ import annotations

import re
import struct
import warnings
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
# Limits on the structure of a file, each far above what any writer of images makes. Without them a few megabytes of
# tiny parts, or a small file that repaints a large picture thousands of times, keep a worker busy for hours.
_MOST_SEGMENTS = 10_000
_MOST_SCANS = 100
_MOST_JUNK = 1 << 16
_MOST_CHUNKS = 1 << 20
_MOST_BLOCKS = 1 << 22
_MOST_TAGS = 4096
_MOST_VALUES = 1 << 20
_MOST_EXIF = 1 << 20

_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

# A marker of a JPEG stream; not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_TEMPORARY, _START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0x01, 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
# Tables, scans, their parameters, and what may stand between them.
_AFTER_SCAN = {0xC4, 0xCC, _END_OF_IMAGE, _START_OF_SCAN, *range(0xDB, 0xF0), _COMMENT}

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_WEBP_PIXELS = {b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L"}

# TIFF: sizes of the types by number, and the tags that are looked at here.
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_BYTES = (1, 2, 6, 7)
_TIFF_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_COMPRESSION, _TILE_WIDTH, _TILE_LENGTH = 259, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)
_EXIF_POINTERS = (34665, 34853, 40965)

_SPACES = b" \t\n\v\f\r"
_PPM_MAGIC = re.compile(rb"P[1-6][ \t\n\v\f\r#]")
_PPM_TOKEN = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*)*+([0-9]{1,10})(?=[ \t\n\v\f\r#])")
_PPM_COMMENT = re.compile(rb"#[^\r\n]*")
_FRAME = "frame of a GIF"
_STEP = 1 << 20  # samples in one piece of work


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

    What is transparent is put on white, and so is what the first frame of a GIF leaves free. Of 16-bit channels the
    high byte is taken. Of several frames or pages the first is taken, of an animated PNG the image that readers without
    animation show; what follows a first frame of GIF, TIFF or WebP may be broken. The EXIF orientation is applied
    (not one that is in XMP or in a text alone). Colour profiles are not: numbers are taken as they are, CMYK as inks
    without a profile, inverted in JPEG, as Adobe writes it and as browsers read it, whether or not it says so.

    A JPEG without restart markers that is whole, but with wrong bits inside, cannot be told from a sound one.
    Raises `InputError`: ``empty``, ``not_an_image``, ``truncated``, ``too_many_pixels`` (before any pixel is decoded).
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
    """The image with its header read and its size checked, nothing decoded (but of PPM, which is decoded here).

    Image.open would compare the size with a limit that is global to the process, and warn; so its table of formats is
    asked directly.
    """
    if not data:
        raise InputError("empty", "the file has no bytes")
    # Pillow warns of tags that it skips and the like, which belongs to no row. Not with catch_warnings: other threads
    # decode at the same time, and would restore each other's filters.
    if list(warnings.filters[:1]) != [_QUIET]:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    name = _format(data[:16])
    if name is None:
        raise InputError("not_an_image", f"the file is none of {', '.join(FORMATS)}")
    if name == "PPM":
        return _open_ppm(data, max_pixels)
    try:
        parts = _PARTS[name](data, max_pixels) if name in _PARTS else data
    except (IndexError, struct.error) as reason:  # a read behind the end
        raise InputError("truncated", f"the {name} file ends too early") from reason
    # Not Pillow's factory for JPEG: it reads the further pictures that some cameras append.
    factory: Callable[..., Any] = JpegImagePlugin.JpegImageFile if name == "JPEG" else Image.OPEN[name][0]
    try:
        picture = factory(BytesIO(parts), "")
        _prepare(picture, data)
    except MemoryError:
        raise
    except Exception as reason:
        raise InputError("not_an_image", f"the {name} file has a broken header") from reason
    if picture.width < 1 or picture.height < 1:
        raise InputError("not_an_image", f"the {name} file has no pixels")
    _check_size(picture.width, picture.height, max_pixels)
    return picture


def _format(head: bytes) -> str | None:
    if _PPM_MAGIC.match(head):
        return "PPM"
    if len(head) < 16 and head[:4] == b"RIFF" and b"WEBP".startswith(head[8:12]):
        return "WEBP"
    accepts: dict[str, Callable[[bytes], Any]] = {
        name: Image.OPEN[name][1]  # type: ignore[misc]
        for name in FORMATS
        if name != "PPM"
    }
    return next((name for name, accept in accepts.items() if accept(head) is True), None)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        size = f"{height} x {width}"
        raise InputError("too_many_pixels", f"the image has {size} pixels, the limit is {max_pixels} in all")


def _prepare(picture: Image.Image, data: bytes) -> None:
    """What Pillow gets wrong, or does later, when it has read a header."""
    if picture.format == "PNG" and "transparency" in picture.info and picture.mode != "P":
        # Pillow compares colours as they are in memory with a transparent one as it is in the file.
        depth, colour = data[24], picture.info["transparency"]
        if isinstance(colour, tuple):
            picture.info["transparency"] = tuple(value >> 8 if depth == 16 else value & 255 for value in colour)
        elif picture.mode == "L":
            most = (1 << depth) - 1
            picture.info["transparency"] = (colour & most) * 255 // most
    if isinstance(picture, GifImagePlugin.GifImageFile):
        extents = picture.tile[0].extents
        if extents != (0, 0, *picture.size):
            picture.info[_FRAME] = extents
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # Pillow follows these pointers when it has decoded, without a limit on what is there.
        exif = picture.getexif()
        for pointer in _EXIF_POINTERS:
            if pointer in exif:
                del exif[pointer]


def _joined(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    """The given ranges of the data; no copy where that is all of them."""
    merged: list[list[int]] = []
    for start, end in parts:
        if merged and merged[-1][1] == start:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    if merged == [[0, len(data)]]:
        return data
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in merged)


def _jpeg_parts(data: bytes, _: int) -> bytes:
    """Walk the segments (ITU T.81, B.1.1) to the end-of-image marker; a thumbnail inside a segment has its own.

    A marker in the coded data that cannot be there makes libjpeg paint the rest gray without a word; here it is an
    error. Kept are the segments that decoding needs, and the first EXIF.
    """
    parts = [(0, 2)]
    position, segments, scans, has_exif = 2, 0, 0, False
    while found := _JPEG_MARKER.search(data, position):
        marker, start = data[found.end() - 1], found.start()
        if not scans and start - position > _MOST_JUNK:
            raise InputError("not_an_image", "the JPEG file has a broken header")
        if scans:
            parts.append((position, start))
        if marker == _END_OF_IMAGE:
            if not scans:
                raise InputError("not_an_image", "the JPEG file has no image data")
            parts.append((start, found.end()))
            return _joined(data, parts)
        if marker == _START_OF_IMAGE or (scans and marker not in _AFTER_SCAN):
            raise InputError("not_an_image", "the JPEG file has a marker where none can be")
        position = found.end()
        if marker == _TEMPORARY:
            continue
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
        segments, scans = segments + 1, scans + (marker == _START_OF_SCAN)
        if segments > _MOST_SEGMENTS or scans > _MOST_SCANS:
            raise InputError("not_an_image", "the JPEG file has more segments or scans than a picture needs")
        if position > len(data):
            break
        content = data[found.end() + 2 : found.end() + 8]
        is_exif = marker == _APP1 and content == b"Exif\0\0"
        needed = not (_APP0 <= marker <= _APP15 or marker == _COMMENT)
        needed |= marker == _APP0 and content.startswith(b"JFIF\0") and position - found.end() >= 16
        needed |= marker == _APP14 and content.startswith(b"Adobe") and position - found.end() >= 14
        if needed or (is_exif and not has_exif):
            parts.append((start, position))
        has_exif |= is_exif
    raise InputError("truncated", "the JPEG file ends too early")


def _png_parts(data: bytes, max_pixels: int) -> bytes:
    """Walk the chunks (ISO/IEC 15948, 5.3) to the last. Pillow skips the checksums of image data, and wrong pixels are
    worse than none: a chunk that pixels depend on and that fails its checksum is an error, and so is one that a reader
    must understand and Pillow does not."""
    if data[12:16] != b"IHDR" and len(data) >= 16:
        raise InputError("not_an_image", "the PNG file does not begin with its header")
    if len(data) >= 24:
        _check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), max_pixels)
    parts = [(0, 8)]
    position, has_palette = 8, False
    for _ in range(_MOST_CHUNKS):
        if position + 12 > len(data):
            raise InputError("truncated", "the PNG file ends too early")
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise InputError("truncated", "the PNG file ends too early")
        if name not in _PNG_PIXELS and name[:1].isupper():
            raise InputError("not_an_image", "the PNG file has a chunk that is not known and must be understood")
        wanted = name in _PNG_PIXELS or (name == b"eXIf" and end - position <= _MOST_EXIF)
        if wanted:
            checksum = zlib.crc32(memoryview(data)[position + 4 : end])
            if checksum == int.from_bytes(data[end : end + 4], "big"):
                parts.append((position, end + 4))
            elif name in _PNG_PIXELS:
                raise InputError("not_an_image", "the PNG file has a chunk that fails its checksum")
        if name == b"IHDR" and position > 8:
            raise InputError("not_an_image", "the PNG file has two headers")
        has_palette |= name == b"PLTE"
        if name == b"IDAT" and data[25] == 3 and not has_palette:
            raise InputError("not_an_image", "the PNG file has no palette")
        if name == b"IEND":
            return _joined(data, parts)
        position = end + 4
    raise InputError("not_an_image", "the PNG file has more chunks than a picture needs")


def _webp_parts(data: bytes, max_pixels: int) -> bytes:
    """The chunks of the first frame (RFC 9649), once the size is checked: libwebp makes its canvas with the header."""
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise InputError("truncated", "the WEBP file ends too early")
    if len(data) < 30:
        raise InputError("truncated", "the WEBP file ends too early")
    if data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(width, height, max_pixels)
    content: list[tuple[int, int]] = []
    position, frames = 12, 0
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    for _ in range(_MOST_CHUNKS):
        if position + 8 > stop:
            break
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + size + size % 2
        wanted = name in _WEBP_PIXELS or (name == b"ANMF" and not frames) or (name == b"EXIF" and size <= _MOST_EXIF)
        if wanted:
            content.append((position, min(end, stop)))
        frames += name == b"ANMF"
        position = end
    chunks = _joined(data, content)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _gif_parts(data: bytes, max_pixels: int) -> bytes:
    """The first frame, with what it needs; its size first, since Pillow may fill memory with the header."""
    blocks = 0

    def skip(position: int) -> int:
        """Behind a series of blocks."""
        nonlocal blocks
        while size := data[position]:
            position += 1 + size
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise InputError("not_an_image", "the GIF file has more blocks than a picture needs")
        return position + 1

    width, height = struct.unpack_from("<HH", data, 6)
    flags = data[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    parts, control = [(0, start)], None
    position = start
    while True:
        kind = data[position]
        if kind == 0x21:
            end = skip(position + 2)
            if data[position + 1] == 0xF9:
                control = (position, end)
            position = end
        elif kind == 0x2C:
            left, top, inner_width, inner_height, flags = struct.unpack_from("<HHHHB", data, position + 1)
            _check_size(max(width, left + inner_width), max(height, top + inner_height), max_pixels)
            end = skip(position + 10 + (3 << (flags & 7) + 1 if flags & 128 else 0) + 1)
            if end > len(data):
                raise IndexError(end)
            parts += [control] if control else []
            return _joined(data, [*parts, (position, end)]) + b";"
        elif kind == 0x3B:
            raise InputError("not_an_image", "the GIF file has no image")
        else:
            position += 1
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise InputError("not_an_image", "the GIF file has more blocks than a picture needs")


def _tiff_parts(data: bytes, max_pixels: int) -> bytes:
    """All of it, once the first directory is checked: Pillow makes Python numbers of lists of any length, libtiff makes
    room for one whole tile, however small the image is, and neither says ``truncated``."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    start = struct.unpack_from(order + "Q", data, 8)[0] if big else struct.unpack_from(order + "L", data, 4)[0]
    if start >= len(data):
        raise InputError("truncated", "the TIFF file ends too early")
    count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    if count > _MOST_TAGS:
        raise InputError("not_an_image", "the TIFF file has more tags than a picture needs")
    position, step = start + (8 if big else 2), 20 if big else 12
    tags: dict[int, np.ndarray] = {}
    for _ in range(count):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, position)
        value, position = position + (12 if big else 8), position + step
        if kind not in _TIFF_SIZES or tag in tags or not number:
            continue
        if kind not in _TIFF_BYTES and number > _MOST_VALUES:
            raise InputError("not_an_image", "the TIFF file has more values in a tag than a picture needs")
        size = number * _TIFF_SIZES[kind]
        if size > (8 if big else 4):
            value = struct.unpack_from(order + ("Q" if big else "L"), data, value)[0]
        if kind in _TIFF_INTEGERS and tag in (_COMPRESSION, _TILE_WIDTH, _TILE_LENGTH, *_STRIPS, *_TILES):
            if value + size > len(data):
                raise InputError("truncated", "the TIFF file ends too early")
            tags[tag] = np.frombuffer(data, order + _TIFF_INTEGERS[kind], number, value).astype(np.float64)
    tile = [tags[tag][0] for tag in (_TILE_WIDTH, _TILE_LENGTH) if len(tags.get(tag, ()))]
    if len(tile) == 2:
        _check_size(int(tile[0]), int(tile[1]), max_pixels)
    compression = tags.get(_COMPRESSION, np.ones(1))
    for offsets, sizes in (_STRIPS, _TILES):
        if offsets in tags and sizes in tags and len(tags[offsets]) == len(tags[sizes]):
            ends = tags[offsets] + (tags[sizes] if compression[:1] != 1 else 0)
            if (ends > len(data)).any():
                raise InputError("truncated", "the TIFF file ends too early")
    return data


def _bmp_parts(data: bytes, max_pixels: int) -> bytes:
    """All of it, if a run-length coded one is not larger than its pixels are, which Pillow decodes in Python."""
    header = struct.unpack_from("<L", data, 14)[0]
    if len(data) < 14 + header <= 14 + 124:
        raise InputError("truncated", "the BMP file ends too early")
    if 40 <= header <= 124:
        width, height = struct.unpack_from("<ll", data, 18)
        _check_size(abs(width), abs(height), max_pixels)
        if data[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(data) > 4 * abs(width * height) + _MOST_JUNK:
            raise InputError("not_an_image", "the BMP file has more data than a picture needs")
    return data


_PARTS: dict[str, Callable[[bytes, int], bytes]] = {
    "JPEG": _jpeg_parts,
    "PNG": _png_parts,
    "WEBP": _webp_parts,
    "GIF": _gif_parts,
    "TIFF": _tiff_parts,
    "BMP": _bmp_parts,
}


def _open_ppm(data: bytes, max_pixels: int) -> Image.Image:
    """Netpbm, P1 to P6. Pillow reads all but its simplest kinds number by number in Python, and comments in a time that
    grows with the square of their number."""
    kind, numbers, position = data[1] - ord("0"), [], 2
    for _ in range(2 if kind in (1, 4) else 3):
        found = _PPM_TOKEN.match(data, position)
        if found is None:
            rest = data[position:].translate(None, _SPACES + b"0123456789")
            code = "truncated" if not rest or rest[:1] == b"#" else "not_an_image"
            raise InputError(code, "the PPM file has a broken header")
        numbers.append(int(found[1]))
        position = found.end()
    width, height, most = numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 1
    if width < 1 or height < 1 or not 0 < most < 65536:
        raise InputError("not_an_image", "the PPM file has a broken header")
    _check_size(width, height, max_pixels)
    bands = 3 if kind in (3, 6) else 1
    shape = (height, width, bands) if bands == 3 else (height, width)
    if kind <= 3:
        gray = _plain_samples(data, position, kind, most, width * height * bands)
    else:
        gray = _raw_samples(data, position + 1, kind, most, width, height * bands)
    picture = Image.fromarray(gray.reshape(shape))
    picture.format = "PPM"
    return picture


def _plain_samples(data: bytes, position: int, kind: int, most: int, count: int) -> np.ndarray:
    """Numbers in writing, as 8 bits each."""
    # One byte a number, at the least: nothing is made room for that cannot be there.
    if len(data) - position < count:
        raise InputError("truncated", "the PPM file ends too early")
    body = _PPM_COMMENT.sub(b" ", data[position:]) if b"#" in data[position:] else data[position:]
    samples, filled, start = np.empty(count, np.uint8), 0, 0
    while filled < count and start < len(body):
        end = min(start + _STEP, len(body))
        while kind != 1 and end < len(body) and body[end] not in _SPACES and end - start < 2 * _STEP:
            end += 1  # to the end of a number
        piece, start = body[start:end], end
        if piece.translate(None, _SPACES + (b"01" if kind == 1 else b"0123456789")):
            raise InputError("not_an_image", "the PPM file has something else among its numbers")
        if kind == 1:  # 1 is black, and white space may be left out
            values = 255 * (np.frombuffer(piece.translate(None, _SPACES), np.uint8) == ord("0"))
        elif re.search(rb"[0-9]{11}", piece):
            raise InputError("not_an_image", "the PPM file has too large a number")
        elif not piece.strip():
            continue
        else:
            values = np.fromstring(piece.decode("ascii"), np.int64, sep=" ")
            if len(values) and values.max() > most:
                raise InputError("not_an_image", "the PPM file has too large a number")
            values = _eight_bits(values, most)
        taken = min(len(values), count - filled)
        samples[filled : filled + taken] = values[:taken]
        filled += taken
    if filled < count:
        raise InputError("truncated", "the PPM file ends too early")
    return samples


def _raw_samples(data: bytes, position: int, kind: int, most: int, width: int, rows: int) -> np.ndarray:
    row_bytes = (width + 7) // 8 if kind == 4 else width * (1 if most < 256 else 2)
    if len(data) - position < rows * row_bytes:
        raise InputError("truncated", "the PPM file ends too early")
    if kind == 4:
        packed = np.frombuffer(data, np.uint8, rows * row_bytes, position).reshape(rows, row_bytes)
        return 255 * (1 - np.unpackbits(packed, axis=1, count=width))
    values = np.frombuffer(data, np.uint8 if most < 256 else np.dtype(">u2"), rows * width, position)
    if most == 255:
        return values
    samples = np.empty(len(values), np.uint8)
    for start in range(0, len(values), _STEP):
        samples[start : start + _STEP] = _eight_bits(values[start : start + _STEP].astype(np.int64), most)
    return samples


def _eight_bits(values: np.ndarray, most: int) -> np.ndarray:
    """Samples up to ``most`` as 8 bits: rounded, but of 16 bits the high byte, as in other formats."""
    return values >> 8 if most == 65535 else ((510 * values + most) // (2 * most)).clip(0, 255)


def _load(picture: Image.Image) -> None:
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as reason:
        # Pillow has no type for this; the word is in the message of all its readers.
        text = str(reason).lower()
        if isinstance(reason, EOFError) or "truncated" in text or "not enough image data" in text:
            raise InputError("truncated", f"the {picture.format} file ends too early") from reason
        raise InputError("not_an_image", f"the {picture.format} file has broken image data") from reason


def _orientation(picture: Image.Image) -> int:
    """Its EXIF orientation; decodes all but JPEG, which draft mode wants undecoded.

    Pillow's PNG reader decodes when it is asked for EXIF, and the error of that must not be lost below; its TIFF reader
    turns the image when it decodes, and then has no orientation left.
    """
    picture.info.pop("xmp", None)
    if picture.format != "JPEG":
        _load(picture)
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
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
    try:
        picture = _rgb(picture)
    except ValueError as reason:  # a palette or a transparency that Pillow takes until it is used
        raise InputError("not_an_image", f"the {picture.format} file has colours that cannot be read") from reason
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _rgb(picture: Image.Image) -> Image.Image:
    transparency = picture.info.get("transparency")
    frame = picture.info.get(_FRAME)
    if picture.mode == "F":
        raise InputError("not_an_image", "pixels are floating-point numbers, whose range nobody knows")
    if picture.mode.startswith("I"):
        return _high_bytes(picture, transparency if isinstance(transparency, int) else None)
    # Pasting takes less memory than Image.alpha_composite, which wants two pictures of four channels and makes a third.
    if transparency is not None or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture)
        picture = opaque
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    if frame is not None:
        canvas = Image.new("RGB", picture.size, "white")
        canvas.paste(picture.crop(frame), frame)
        picture = canvas
    return picture


def _high_bytes(picture: Image.Image, transparency: int | None) -> Image.Image:
    """Gray of 16 or 32 bits to RGB; Pillow would clip at 255. Of 16-bit RGB it takes the high byte itself."""
    values = np.asarray(picture)
    gray = np.empty(values.shape, np.uint8)
    rows = max(1, _STEP // values.shape[1])
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.int32)
        gray[start : start + rows] = part.clip(0, 0xFFFF) >> 8
        if transparency is not None:
            gray[start : start + rows][part == transparency] = 255
    return Image.fromarray(gray).convert("RGB")


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
