"""AVIF and HEIC: images in boxes of the ISO base media file format (ISO/IEC 14496-12, 23008-12).

The boxes are checked before a decoder sees the file: they must tile it, and no picture in it may have more pixels than
allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.errors import InputError

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_MOST_BOXES = 10_000
_MOST_BRANDS = 256
_PROPERTIES = (b"meta", b"iprp", b"ipco")  # the boxes around the sizes of pictures


def format_of(head: bytes) -> str | None:
    """``AVIF`` or ``HEIF`` by the brands at the beginning of a file; None if it is neither."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 16 + 4 * _MOST_BRANDS, len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in _HEIC for brand in brands) else None


def check(name: str, data: bytes, max_pixels: int) -> bytes:
    """The data, if their boxes are sound. Raises `InputError`: ``truncated``, ``not_an_image``, ``too_many_pixels``."""
    kinds = set()
    for kind, start, end in _boxes(name, data, 0, len(data)):
        kinds.add(kind)
        if kind == b"meta":
            _check_sizes(name, data, start, end, max_pixels, list(_PROPERTIES[1:]))
    if b"meta" not in kinds and b"moov" not in kinds:
        raise InputError("not_an_image", f"the {name} file has no picture in it")
    return data


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise `InputError` ``too_many_pixels`` if the image has more pixels than the limit."""
    if width * height > max_pixels:
        size = f"{height} x {width}"
        raise InputError("too_many_pixels", f"the image has {size} pixels, the limit is {max_pixels} in all")


def _check_sizes(name: str, data: bytes, start: int, end: int, max_pixels: int, inside: list[bytes]) -> None:
    """Check the sizes of all pictures in the box at ``start``; ``inside``: the boxes on the way to them."""
    first = start + 4 if inside == list(_PROPERTIES[1:]) else start  # ``meta`` begins with a version and flags
    for kind, begin, stop in _boxes(name, data, first, end):
        if inside and kind == inside[0]:
            _check_sizes(name, data, begin, stop, max_pixels, inside[1:])
        elif not inside and kind == b"ispe":
            width, height = struct.unpack(">II", data[begin + 4 : begin + 12])
            check_pixels(height, width, max_pixels)


def _boxes(name: str, data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places: the kind, and where the content begins and ends."""
    for _ in range(_MOST_BOXES):
        if start >= end:
            return
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        content = start + 8
        if size == 1:
            size, content = int.from_bytes(data[content : content + 8], "big"), content + 8
        stop = end if size == 0 else start + size
        if len(kind) < 4 or stop > end:
            raise InputError("truncated", f"the {name} file ends too early")
        if stop < content:
            raise InputError("not_an_image", f"the {name} file has a box smaller than its header")
        yield kind, content, stop
        start = stop
    raise InputError("not_an_image", f"the {name} file has more than {_MOST_BOXES} boxes")
