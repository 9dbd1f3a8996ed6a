"""AVIF and HEIC: images in boxes of the ISO base media file format (ISO/IEC 14496-12, 23008-12).

The boxes are checked before a decoder sees the file: they must tile it, and no picture in it may have more pixels than
allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.errors import InputError
from pipeline.images.structure import check_size

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_MOST_BOXES = 10_000
_MOST_BRANDS = 256


def format_of(head: bytes) -> str | None:
    """``AVIF`` or ``HEIF`` by the brands at the beginning of a file; None if it is neither."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 16 + 4 * _MOST_BRANDS, len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in _HEIC for brand in brands) else None


def check(name: str, data: bytes, max_pixels: int) -> None:
    """Check the boxes of a file. Raises `InputError`: ``truncated``, ``not_an_image``, ``too_many_pixels``."""
    kinds = set()
    for kind, start, end in _boxes(name, data, 0, len(data)):
        kinds.add(kind)
        if kind == b"meta":
            for width, height in _sizes(name, data, start + 4, end):  # it begins with a version and flags
                check_size(width, height, max_pixels)
    if b"meta" not in kinds and b"moov" not in kinds:
        raise InputError("not_an_image", f"the {name} file has no picture in it")


def _sizes(name: str, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The width and the height of all pictures, from the boxes ``iprp/ipco/ispe`` in a box."""
    for begin, stop in _named(name, data, start, end, b"iprp"):
        for first, last in _named(name, data, begin, stop, b"ipco"):
            for place, size_end in _named(name, data, first, last, b"ispe"):
                if size_end < place + 12:
                    raise InputError("truncated", f"the {name} file has a picture without a size")
                yield struct.unpack(">II", data[place + 4 : place + 12])


def _named(name: str, data: bytes, start: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    return ((begin, stop) for kind, begin, stop in _boxes(name, data, start, end) if kind == wanted)


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
