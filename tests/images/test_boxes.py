"""AVIF and HEIC: read upright by content, and refused with a code where they are damaged or too large."""

from __future__ import annotations

import contextlib
import io
import random

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.inputs import decode_image
from pipeline.images.isobmff import format_of
from testing.processes import ROOT

FILES = ROOT / "testing" / "hostile"
COLOURS = np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 220], [240, 240, 60]]])
PIXELS = COLOURS.repeat(24, 0).repeat(32, 1).astype(np.uint8)
_UPRIGHT = {3: 2, 6: 1, 8: 3}  # quarter turns against the clock of what is stored, for each orientation


def avif(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["four", "four_turned"])
def test_heic_is_upright(name: str) -> None:
    found = decode_image((FILES / f"{name}.heic").read_bytes(), 10**4)
    assert found.shape == PIXELS.shape
    assert np.abs(found.astype(int) - PIXELS).max() <= 2


@pytest.mark.parametrize("orientation", [1, *_UPRIGHT])
def test_avif_is_upright(orientation: int) -> None:
    found = decode_image(avif(np.rot90(PIXELS, _UPRIGHT.get(orientation, 0)), orientation), 10**4)
    assert found.shape == PIXELS.shape
    assert np.abs(found.astype(int) - PIXELS).max() <= 4


@pytest.mark.parametrize("data", [avif(PIXELS), (FILES / "four.heic").read_bytes()], ids=["avif", "heic"])
def test_damage_and_size(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        decode_image(data, 100)
    assert caught.value.code == "too_many_pixels"
    for end in (16, 200, len(data) - 5):
        with pytest.raises(InputError) as caught:
            decode_image(data[:end], 10**4)
        assert caught.value.code == "truncated"
    choose = random.Random(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(choose.choice((1, 2, 5, 30))):
            changed[choose.randrange(len(changed))] = choose.randrange(256)
        with contextlib.suppress(InputError):  # whatever else is raised is a fault
            decode_image(bytes(changed), 10**4)


def test_formats_are_known_by_their_brands() -> None:
    def head(*brands: bytes) -> bytes:
        return (12 + 4 * len(brands)).to_bytes(4, "big") + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])

    assert format_of(head(b"heic", b"mif1")) == "HEIF"
    assert format_of(head(b"mif1", b"miaf", b"avif")) == "AVIF"
    assert format_of(head(b"isom", b"mp42")) is None
    assert format_of(b"\xff\xd8\xff") is None
