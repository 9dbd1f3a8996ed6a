"""Netpbm images, P1 to P6, read with numpy: Pillow reads most of these kinds number by number in Python."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.structure import check_size

#: Matches the beginning of a file that this module reads.
MAGIC = re.compile(rb"P[1-6][ \t\n\v\f\r#]")

_SPACES = b" \t\n\v\f\r"
_PPM_TOKEN = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*)*+([0-9]{1,10})(?=[ \t\n\v\f\r#])")
_PPM_COMMENT = re.compile(rb"#[^\r\n]*")
_STEP = 1 << 20  # bytes of text, or samples, that are converted at a time


def open_netpbm(data: bytes, max_pixels: int) -> Image.Image:
    """Read a Netpbm image, P1 to P6. Raises `InputError`: ``not_an_image``, ``truncated``, ``too_many_pixels``.

    Pillow reads all but the simplest kinds number by number in Python, and needs time that grows with the square of the
    number of comments.
    """
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
    check_size(width, height, max_pixels)
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
    """Samples that are written as text (P1 to P3), as 8 bits each."""
    # Each number takes at least one byte, so a short file is refused before memory is allocated.
    if len(data) - position < count:
        raise InputError("truncated", "the PPM file ends too early")
    body = _PPM_COMMENT.sub(b" ", data[position:]) if b"#" in data[position:] else data[position:]
    samples, filled, start = np.empty(count, np.uint8), 0, 0
    while filled < count and start < len(body):
        end = min(start + _STEP, len(body))
        while kind != 1 and end < len(body) and body[end] not in _SPACES and end - start < 2 * _STEP:
            end += 1  # so that a piece does not end within a number
        piece, start = body[start:end], end
        if piece.translate(None, _SPACES + (b"01" if kind == 1 else b"0123456789")):
            raise InputError("not_an_image", "the PPM file has something else among its numbers")
        if kind == 1:  # 1 is black, and white space between the digits is optional
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
    """Samples in [0, ``most``] as 8 bits: scaled and rounded, but the high byte of 16 bits, as in other formats."""
    return values >> 8 if most == 65535 else ((510 * values + most) // (2 * most)).clip(0, 255)
