"""HEIC images, decoded by libheif (pi-heif)."""

from __future__ import annotations

import _pi_heif
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.structure import check_size

_THREADS = 1


def open_heic(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the primary picture of a HEIC file, upright. Raises `InputError`: ``not_an_image``, ``too_many_pixels``.

    The reader in C is called directly. The class around it also reads thumbnails, depth maps and metadata, which are of
    no use here, and of which damaged ones end the process.
    """
    convert_to_8_bits, bgr, remove_stride, to_16_bits, no_limits = True, False, True, True, False
    try:
        found = _pi_heif.load_file(data, _THREADS, convert_to_8_bits, bgr, remove_stride, to_16_bits, "", no_limits)
        pictures = [picture for picture in found if picture is not None]
        primary = next((picture for picture in pictures if picture.primary), pictures[0])
        (width, height), mode = primary.size_mode
        check_size(width, height, max_pixels)
        pixels = primary.data
        decoded = Image.frombytes(mode, primary.size_mode[0], pixels, "raw", mode, primary.stride)
    except (MemoryError, InputError):
        raise
    except Exception as reason:
        raise InputError("not_an_image", "the HEIF file cannot be decoded") from reason
    decoded.format = "HEIF"
    return decoded
