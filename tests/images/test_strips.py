"""Large images that are read in strips: the same pixels as from the whole, the same errors, and masks of any size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images import strips
from pipeline.images.inputs import decode_image, decode_scaled
from pipeline.images.strips import open_strips
from pipeline.rows import INPUT_SCHEMA
from tests.images.test_tiles import Threshold, blocks, segmented, task

MANY = 1 << 30


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_LARGE_PX", 1)


def picture(mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 23, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((207, 301), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def code_of(file: bytes) -> str | None:
    """The code of the error with which the whole image is decoded."""
    try:
        decode_image(file, MANY)
    except InputError as reason:
        return reason.code
    return None


def rows_of(files: list[bytes]) -> pa.Table:
    columns = {"data": files, "format": ["object"] * len(files), "label": [None] * len(files)}
    return pa.table(columns, INPUT_SCHEMA)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 80}),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("L", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("L", "TIFF", {}),
    ],
)
def test_strips_are_the_whole_image(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = saved(picture(mode), kind, **options)
    found = open_strips(data, MANY, 1.0)
    assert found is not None
    assert (found.valid_height, found.valid_width) == (301, 207)
    whole = decode_image(data, MANY)
    for start, stop in ((0, 5), (0, 70), (60, 131), (131, 131), (200, 301)):
        assert np.array_equal(found.rows(start, stop), whole[start:stop]), (start, stop)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 90}), ("PNG", {})])
@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_scaled_strips_are_near_the_scaled_image(kind: str, options: dict[str, Any], scale: float) -> None:
    data = saved(picture(), kind, **options)
    found = open_strips(data, MANY, scale)
    assert found is not None
    whole, height, width = decode_scaled(data, MANY, scale)
    assert (height, width) == (found.height, found.width)
    mine = found.rows(0, found.valid_height)
    assert mine.shape == whole.shape
    assert np.abs(mine.astype(int) - whole).mean() < 3


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "TIFF", {"compression": "jpeg"}),
        ("CMYK", "TIFF", {}),
        ("RGB", "WEBP", {}),
        ("RGB", "BMP", {}),
    ],
)
def test_other_layouts_are_decoded_as_a_whole(mode: str, kind: str, options: dict[str, Any]) -> None:
    image = Image.new("I;16", (9, 7)) if mode == "I;16" else picture(mode)
    assert open_strips(saved(image, kind, **options), MANY, 1.0) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_turned_images_are_decoded_as_a_whole(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_strips(saved(picture(), kind, exif=exif), MANY, 1.0) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_errors_are_those_of_the_whole_image(kind: str) -> None:
    data = saved(picture(), kind)
    broken = [data[:size] for size in (0, 5, 40, len(data) // 2, len(data) - 30)]
    broken.append(data[:300] + bytes(200) + data[500:])
    for file in broken:
        error = task().prepare(rows_of([file]))["error"][0].as_py()
        assert (error and error["code"]) == code_of(file)
    with pytest.raises(InputError, match="the limit is 1000 in all"):
        open_strips(data, 1000, 1.0)


def test_masks_from_strips_are_those_from_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [blocks(200, 330), blocks(90, 33)]
    for settings in (task(), task(tile_scale=0.7)):
        from_strips = segmented(settings, Threshold(), pictures)
        with monkeypatch.context() as patch:
            patch.setattr(strips, "_LARGE_PX", MANY)
            whole = segmented(settings, Threshold(), pictures)
        for mine, theirs in zip(from_strips, whole, strict=True):
            if settings.tile_scale == 1:
                assert mine == theirs
            assert sum(mine["class_pixels"]) == mine["height"] * mine["width"]
            assert np.allclose(mine["class_pixels"], theirs["class_pixels"], rtol=0.05)


def test_what_is_read_in_strips_is_read_rightly() -> None:
    """Of files with random changes, libvips reads those that Pillow reads, with the same pixels, or none."""
    random = np.random.default_rng(0)
    read = 0
    for kind, options in (("JPEG", {}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        data = saved(picture(), kind, **options)
        for _ in range(25):
            changed = bytearray(data[: None if random.random() < 0.8 else random.integers(len(data))])
            for _ in range(random.integers(1, 4)):
                changed[random.integers(len(changed))] = random.integers(256)
            file = bytes(changed)
            try:
                found, again = (open_strips(file, MANY, 1.0) for _ in range(2))
            except InputError:
                found = again = None
            if found is not None and again is not None and found.is_sound():
                assert np.array_equal(again.rows(0, again.height), decode_image(file, MANY))
                read += 1
    assert read > 20
