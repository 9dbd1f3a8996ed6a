"""TIFF files by Pillow, in the layouts that are read rightly; any other is an error that names the layout.

A layout is the kind of colours, the numbers that a sample can be, and the order of samples and bits (TIFF 6.0).
`testing/image_layouts.py` has the table of layouts that this module is held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import TiffImagePlugin

from pipeline.errors import InputError

#: In ``info`` of an opened file with gray of more than 8 bits: the number of bits, and whether 0 is white.
GRAY_BITS, WHITE_IS_ZERO = "bits of gray", "white is zero"

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 258, 259, 262, 266
_SAMPLES, _PLANES, _EXTRA, _NUMBERS = 277, 284, 338, 339
_UNCOMPRESSED, _LZW = 1, 5
_YCBCR = 6
_COLOURS = {
    0: "gray whose 0 is white",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIE L*a*b*",
}
_KINDS_OF_NUMBERS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_MODES_IN_PLANES = ("L", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B")
_MOST_SHOWN = 8


class TiffFile(TiffImagePlugin.TiffImageFile):
    """An opened TIFF file, not decoded. Raises `InputError` ``not_an_image`` if its layout is not read.

    Gray of more than 8 bits has `GRAY_BITS` and `WHITE_IS_ZERO` in its ``info``; Pillow leaves both to the caller.
    """

    def _setup(self) -> None:
        tags = self.tag_v2
        kind = max(_values(tags, _NUMBERS, 1))
        bits = max(_values(tags, _BITS, 1))
        if kind in _KINDS_OF_NUMBERS:
            what = _KINDS_OF_NUMBERS[kind]
            raise InputError(
                "not_an_image", f"the samples of the TIFF file are {what} numbers, whose range nobody knows"
            )
        if bits > 16:
            what = f"numbers of {bits} bits"
            raise InputError("not_an_image", f"the samples of the TIFF file are {what}, whose range nobody knows")
        photometric = _values(tags, _PHOTOMETRIC, 0)[0]
        in_planes = _values(tags, _PLANES, 1)[0] == 2
        # Pillow leaves compressed data to libtiff. Its own reader of uncompressed data takes planes for 8 bits, knows
        # few layouts with bits in reverse order, and takes YCbCr for three samples a pixel. So libtiff reads these.
        needs_libtiff = in_planes or photometric == _YCBCR or _values(tags, _FILL_ORDER, 1)[0] != 1
        compression = tags.get(_COMPRESSION)
        try:
            if needs_libtiff and compression in (None, _UNCOMPRESSED):
                tags[_COMPRESSION] = _LZW  # Pillow chooses libtiff by this; libtiff goes by the file
            super()._setup()
        except (SyntaxError, KeyError) as reason:
            raise self._not_read(compression) from reason
        extra = _values(tags, _EXTRA, 0)
        if in_planes and (self.mode not in _MODES_IN_PLANES or (len(extra) > 1 and max(extra) > 0)):
            raise self._not_read(compression)
        if self.mode.startswith("I"):
            self.info[GRAY_BITS], self.info[WHITE_IS_ZERO] = bits, photometric == 0

    def _not_read(self, compression: Any) -> InputError:
        """The error that names the file's layout."""
        tags = self.tag_v2
        photometric, bits = _values(tags, _PHOTOMETRIC, 0)[0], _values(tags, _BITS, 1)
        said = [_COLOURS.get(photometric, f"photometric interpretation {photometric}")]
        said.append(f"{_values(tags, _SAMPLES, 1)[0]} x {'/'.join(map(str, sorted(set(bits))[:_MOST_SHOWN]))} bits")
        extra = _values(tags, _EXTRA, 0) if _EXTRA in tags else ()
        said += [f"extra samples {'/'.join(map(str, extra[:_MOST_SHOWN]))}"] if extra else []
        said += ["in planes"] if _values(tags, _PLANES, 1)[0] == 2 else []
        said += ["bits in reverse order"] if _values(tags, _FILL_ORDER, 1)[0] == 2 else []
        said += ["big-endian"] if tags.prefix == b"MM" else []
        said.append(f"compression {compression if type(compression) is int else _UNCOMPRESSED}")
        return InputError("not_an_image", f"the TIFF file has a layout that is not read: {', '.join(said)}")


def _values(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    """The whole numbers in a tag; at least one."""
    found = tags.get(tag, default)
    found = found if isinstance(found, tuple) else (found,)
    return tuple(value for value in found if type(value) is int) or (default,)
