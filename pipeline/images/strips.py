"""Large images as strips of rows, decoded from the top down by libvips, so that the whole is never in memory.

Only layouts are read in which libvips gives the same colours as `inputs.decode_image`: JPEG in gray and in colour, PNG
of 8 bits without transparency and interlacing, TIFF of 8 bits in gray and RGB; all of them stored upright. Every other
image is decoded as a whole. A progressive JPEG is read, but libjpeg keeps its coefficients in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.inputs import open_image
from pipeline.images.structure import pixel_parts

_LARGE_PX = 1 << 23  # pixels from which an image is read in strips
_ROWS_AT_ONCE = 64
_LOADERS = {"JPEG": "jpegload_buffer", "PNG": "pngload_buffer", "TIFF": "tiffload_buffer"}
_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_EXTRA = 258, 259, 262, 284, 338
_TIFF_COMPRESSIONS = {1, 5, 8, 32946}  # none, LZW, and Deflate under both of its numbers
_TIFF_MODES = {("L", 1), ("RGB", 2)}  # Pillow's mode, photometric interpretation


class StripImage:
    """A large image, opened for reading once from the top down.

    ``data`` are the parts of the file that its pixels need, and ``name`` is its format, as `open_strips` finds them.
    ``height`` and ``width`` are those of the file, ``valid_height`` and ``valid_width`` those after scaling.
    """

    def __init__(self, data: Any, name: str, size: tuple[int, int], scale: float) -> None:
        import pyvips  # here, since few processes meet a large image

        self.height, self.width = size
        self.valid_height, self.valid_width = (max(1, round(side * scale)) for side in size)
        self.data, self.name, self._error = data, name, pyvips.Error
        self._rows, self._first = np.empty((0, self.valid_width, 3), np.uint8), 0
        # libvips has one type for all errors. What it does not read is decoded as a whole, which names the error.
        try:
            image: Any = getattr(pyvips.Image, _LOADERS[name])(data, access="sequential", fail_on="warning")
            if scale != 1:
                factors = self.valid_width / self.width, self.valid_height / self.height
                image = image.resize(factors[0], vscale=factors[1], kernel="linear")
            self._region: Any = pyvips.Region.new(image)
        except pyvips.Error as reason:
            raise _broken(name) from reason
        if (image.height, image.width) != (self.valid_height, self.valid_width) or image.format != "uchar":
            raise _broken(name)
        self._bands = image.bands

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows from ``start`` to ``stop``, (rows, valid_width, 3) uint8. Neither may be less than in the call
        before. Raises `InputError` ``not_an_image``."""
        end = self._first + len(self._rows)
        parts = [self._rows[max(0, start - self._first) :]]
        for top in range(end, stop, _ROWS_AT_ONCE):
            parts.append(self._decoded(top, min(top + _ROWS_AT_ONCE, stop))[max(0, start - top) :])
        self._rows, self._first = np.concatenate(parts), max(start, self._first)
        return self._rows[: stop - start]

    def is_sound(self) -> bool:
        """Decode all rows once, keep none, and tell whether that went well. `rows` cannot be called afterwards."""
        try:
            for top in range(0, self.valid_height, _ROWS_AT_ONCE):
                self._decoded(top, min(top + _ROWS_AT_ONCE, self.valid_height))
        except InputError:
            return False
        return True

    def _decoded(self, top: int, bottom: int) -> np.ndarray:
        try:
            data = self._region.fetch(0, top, self.valid_width, bottom - top)
        except self._error as reason:
            raise _broken(self.name) from reason
        found = np.frombuffer(data, np.uint8).reshape(bottom - top, self.valid_width, self._bands)
        return found if self._bands == 3 else found.repeat(3, 2)


def open_strips(data: bytes, max_pixels: int, scale: float) -> StripImage | None:
    """A large image for reading in strips, scaled by ``scale`` <= 1; None if the image is to be decoded as a whole.

    Raises `InputError` as `inputs.decode_image` does.
    """
    picture = open_image(data, max_pixels)
    size, name = (picture.height, picture.width), str(picture.format)
    if size[0] * size[1] < _LARGE_PX or name not in _LOADERS:
        return None
    parts = pixel_parts(name, data, max_pixels)
    if not _is_readable(picture, parts):
        return None
    try:
        return StripImage(parts, name, size, scale)
    except InputError:
        return None


def _is_readable(picture: Image.Image, parts: bytes) -> bool:
    """Whether libvips gives the colours of the image as `inputs.decode_image` does, row by row."""
    if picture.format == "PNG":
        depth, interlaced = parts[24], parts[28]
        is_plain = picture.mode in ("L", "RGB", "P") and depth == 8 and not interlaced
        return is_plain and "transparency" not in picture.info and b"tRNS" not in parts and b"eXIf" not in parts
    if picture.format == "TIFF":
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        return (
            (picture.mode, tags.get(_TIFF_PHOTOMETRIC)) in _TIFF_MODES
            and tags.get(_TIFF_COMPRESSION, 1) in _TIFF_COMPRESSIONS
            and set(tags.get(_TIFF_BITS, (1,))) == {8}
            and tags.get(_TIFF_PLANES, 1) == 1
            and not tags.get(_TIFF_EXTRA)
            and tags.get(_ORIENTATION, 1) == 1
        )
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block is treated as none, as in `inputs`
        orientation = 1
    return picture.mode in ("L", "RGB") and orientation not in range(2, 9)


def _broken(name: str) -> InputError:
    return InputError("not_an_image", f"the {name} file has broken image data")
