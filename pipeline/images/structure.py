"""Checks of the structure of image files, before anything is decoded.

It refuses files that are cut off, that declare more pixels than allowed, or that are built to cost far more time than
their size suggests. It returns only the parts of a file that the pixels depend on, without profiles, texts, thumbnails
and further frames: defects there do not affect the pixels, and most decompression bombs hide there.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

import numpy as np

from pipeline.errors import InputError

# Limits on the structure of a file, far above what programs write. Without them, a few megabytes of tiny parts, or a
# small file that repaints a large picture thousands of times, could keep a worker busy for hours.
_MOST_SEGMENTS = 10_000
_MOST_SCANS = 100
_MOST_JUNK = 1 << 16
_MOST_CHUNKS = 1 << 20
_MOST_BLOCKS = 1 << 22
_MOST_TAGS = 4096
_MOST_VALUES = 1 << 20
_MOST_EXIF = 1 << 20

# A marker in a JPEG stream: 0xFF and a byte that is neither a stuffed zero nor a restart marker nor a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_TEMPORARY, _START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0x01, 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
# Markers of a frame's header; those between them are of tables.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Markers that are allowed after the first scan: tables, scans, their parameters, and comments.
_AFTER_SCAN = {0xC4, 0xCC, _END_OF_IMAGE, _START_OF_SCAN, *range(0xDB, 0xF0), _COMMENT}

_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_WEBP_PIXELS = {b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L"}

# TIFF: size in bytes of each type by its number, and the tags that are checked here.
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_BYTES = (1, 2, 6, 7)
_TIFF_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _PLANES, _TILE_WIDTH, _TILE_LENGTH = 259, 262, 266, 284, 322, 323
_CHECKED = (_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _PLANES, _TILE_WIDTH, _TILE_LENGTH)
_STRIPS, _TILES = (273, 279), (324, 325)
_YCBCR = 6


def pixel_parts(name: str, data: bytes, max_pixels: int) -> bytes:
    """The file with only the parts that its pixels need. ``name`` is Pillow's name of the format.

    Raises `InputError`: ``truncated``, ``not_an_image``, ``too_many_pixels``.
    """
    try:
        return _PARTS[name](data, max_pixels) if name in _PARTS else data
    except (IndexError, struct.error) as reason:  # a read past the end
        raise InputError("truncated", f"the {name} file ends too early") from reason


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise `InputError` ``too_many_pixels`` if the image has more pixels than the limit."""
    if width * height > max_pixels:
        size = f"{height} x {width}"
        raise InputError("too_many_pixels", f"the image has {size} pixels, the limit is {max_pixels} in all")


def _concatenate_ranges(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    """The given ranges of the data, concatenated. Returns the data itself, not a copy, if they cover all of it."""
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
    """Walk the segments (ITU T.81, B.1.1) to the end-of-image marker. Thumbnails are inside a segment and are skipped.

    A marker that is not allowed in the coded data makes libjpeg paint the rest gray without an error; here it is an
    error. The result has the segments that decoding needs, and the first EXIF segment.
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
            return _concatenate_ranges(data, parts)
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
        if marker in _FRAMES and content[:1] != b"\x08":
            raise InputError("not_an_image", f"the JPEG file has samples of {content[0]} bits, only 8 are read")
        is_exif = marker == _APP1 and content == b"Exif\0\0"
        needed = not (_APP0 <= marker <= _APP15 or marker == _COMMENT)
        needed |= marker == _APP0 and content.startswith(b"JFIF\0") and position - found.end() >= 16
        needed |= marker == _APP14 and content.startswith(b"Adobe") and position - found.end() >= 14
        if needed or (is_exif and not has_exif):
            parts.append((start, position))
        has_exif |= is_exif
    raise InputError("truncated", "the JPEG file ends too early")


def _png_parts(data: bytes, max_pixels: int) -> bytes:
    """Walk the chunks (ISO/IEC 15948, 5.3) to the last.

    Pillow does not check the checksums of image data, but wrong pixels are worse than an error. So a chunk that the
    pixels depend on must have the right checksum. A critical chunk that Pillow does not know is an error, too.
    """
    if data[12:16] != b"IHDR" and len(data) >= 16:
        raise InputError("not_an_image", "the PNG file does not begin with its header")
    if len(data) >= 24:
        check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), max_pixels)
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
            return _concatenate_ranges(data, parts)
        position = end + 4
    raise InputError("not_an_image", "the PNG file has more chunks than a picture needs")


def _webp_parts(data: bytes, max_pixels: int) -> bytes:
    """The chunks of the first frame (RFC 9649). Checks the size first, since libwebp allocates with the header."""
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
    check_size(width, height, max_pixels)
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
    chunks = _concatenate_ranges(data, content)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _gif_parts(data: bytes, max_pixels: int) -> bytes:
    """The first frame and what it needs. Checks the size first, since Pillow may allocate memory with the header."""
    blocks = 0

    def skip(position: int) -> int:
        """The position after a series of data sub-blocks."""
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
            check_size(max(width, left + inner_width), max(height, top + inner_height), max_pixels)
            end = skip(position + 10 + (3 << (flags & 7) + 1 if flags & 128 else 0) + 1)
            if end > len(data):
                raise IndexError(end)
            parts += [control] if control else []
            return _concatenate_ranges(data, [*parts, (position, end)]) + b";"
        elif kind == 0x3B:
            raise InputError("not_an_image", "the GIF file has no image")
        else:
            position += 1
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise InputError("not_an_image", "the GIF file has more blocks than a picture needs")


def _tiff_parts(data: bytes, max_pixels: int) -> bytes:
    """The whole file, after checks of its first directory.

    Pillow turns lists of any length into Python numbers, and libtiff allocates a whole tile, however small the image
    is. Neither reports a truncated file as such.
    """
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
        if kind in _TIFF_INTEGERS and tag in (*_CHECKED, *_STRIPS, *_TILES):
            if value + size > len(data):
                raise InputError("truncated", "the TIFF file ends too early")
            tags[tag] = np.frombuffer(data, order + _TIFF_INTEGERS[kind], number, value).astype(np.float64)
    tile = [tags[tag][0] for tag in (_TILE_WIDTH, _TILE_LENGTH) if len(tags.get(tag, ()))]
    if len(tile) == 2:
        check_size(int(tile[0]), int(tile[1]), max_pixels)
    # Pillow finds out by itself that plain uncompressed data are cut, whatever their sizes in the file. Libtiff reads
    # the rest (`pipeline.images.tiff`).
    usual = ((_COMPRESSION, 1), (_PLANES, 1), (_FILL_ORDER, 1))
    by_libtiff = any(tags[tag][0] != value for tag, value in usual if tag in tags)
    by_libtiff |= _PHOTOMETRIC in tags and tags[_PHOTOMETRIC][0] == _YCBCR
    for offsets, sizes in (_STRIPS, _TILES):
        if offsets in tags and sizes in tags and len(tags[offsets]) == len(tags[sizes]):
            ends = tags[offsets] + (tags[sizes] if by_libtiff else 0)
            if (ends > len(data)).any():
                raise InputError("truncated", "the TIFF file ends too early")
    return data


def _bmp_parts(data: bytes, max_pixels: int) -> bytes:
    """The whole file. Run-length coded data must not be larger than the pixels, since Pillow decodes it in Python."""
    header = struct.unpack_from("<L", data, 14)[0]
    if len(data) < 14 + header <= 14 + 124:
        raise InputError("truncated", "the BMP file ends too early")
    if 40 <= header <= 124:
        width, height = struct.unpack_from("<ll", data, 18)
        check_size(abs(width), abs(height), max_pixels)
        if data[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(data) > 4 * abs(width * height) + _MOST_JUNK:
            raise InputError("not_an_image", "the BMP file has more data than a picture needs")
    # Pillow would ignore this alpha.
    if header >= 56 and data[28:34] == b"\x10\0\3\0\0\0" and any(data[66:70]):
        raise InputError("not_an_image", "the BMP file has alpha in pixels of 16 bits, a layout that is not read")
    return data


_PARTS: dict[str, Callable[[bytes, int], bytes]] = {
    "JPEG": _jpeg_parts,
    "PNG": _png_parts,
    "WEBP": _webp_parts,
    "GIF": _gif_parts,
    "TIFF": _tiff_parts,
    "BMP": _bmp_parts,
}
