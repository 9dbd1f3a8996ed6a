"""Encodings of masks and outlines of regions: whatever the mask, decoding gives it back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from pipeline.exports.names import Names, common_folder
from pipeline.exports.regions import polygons, regions
from pipeline.exports.rle import brush_bytes, coco_counts, cvat_runs

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
IDS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2))


def from_counts(counts: list[int], size: int) -> np.ndarray:
    assert sum(counts) == size
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def from_brush(data: bytes) -> np.ndarray:
    """Label Studio's decoder, from its format's description."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    found: list[int] = []
    while len(found) < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        found += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(found) == count
    assert len(bits) - place < 8
    return np.array(found, np.uint8)


@given(MASKS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_coco_counts(mask: np.ndarray, above: int, below: int, left: int, right: int) -> None:
    image = np.pad(mask, ((above, below), (left, right)))
    counts = coco_counts(mask, above, left, *image.shape)
    assert (from_counts(counts, image.size).reshape(image.shape, order="F") == image).all()
    assert all(count > 0 for count in counts[1:])


@given(MASKS)
def test_cvat_runs(mask: np.ndarray) -> None:
    counts = [int(text) for text in cvat_runs(mask).split(",")]
    assert (from_counts(counts, mask.size).reshape(mask.shape) == mask).all()


@given(MASKS)
def test_brush(mask: np.ndarray) -> None:
    assert (from_brush(brush_bytes(mask)) == np.repeat(mask.ravel() * np.uint8(255), 4)).all()


def test_brush_of_runs_longer_than_a_run_can_be() -> None:
    mask = np.zeros((300, 300), bool)
    mask[100:] = True
    assert (from_brush(brush_bytes(mask)) == np.repeat(mask.ravel() * np.uint8(255), 4)).all()


@given(IDS)
@settings(deadline=None)
def test_regions_tile_the_mask(mask: np.ndarray) -> None:
    found = np.full(mask.shape, 9, np.uint8)
    for region in regions(mask, without=(1,)):
        x, y, width, height = region.box
        place = found[y : y + height, x : x + width]
        assert (place[region.inside] == 9).all()
        place[region.inside] = region.class_id
    assert (found == np.where(mask == 1, 9, mask)).all()


@given(IDS)
@settings(deadline=None)
def test_polygons_cover_the_region(mask: np.ndarray) -> None:
    """The area of each polygon by the shoelace formula, and its pixels by Pillow at three times the size."""
    for region in regions(mask):
        covered = np.zeros(mask.shape, int)
        area = 0
        for polygon in polygons(region):
            x, y = np.array(polygon[::2]), np.array(polygon[1::2])
            area += abs(int(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
            picture = Image.new("L", (3 * mask.shape[1] + 1, 3 * mask.shape[0] + 1))
            ImageDraw.Draw(picture).polygon([(3 * a, 3 * b) for a, b in zip(x.tolist(), y.tolist(), strict=True)], 1)
            covered += np.asarray(picture)[1::3, 1::3]
        whole = np.zeros(mask.shape, int)
        left, top, width, height = region.box
        whole[top : top + height, left : left + width] = region.inside
        assert area == region.inside.sum()
        assert (covered == whole).all()


def test_names() -> None:
    names = Names("s3://b/", (".jpg", ".png"))
    asked = [("a/1.jpg", None), ("a/1.png", None), ("A/1.JPG", None), ("c.tar", "x/../1.jpg"), ("v1.2", None)]
    found = [names.of(f"s3://b/{uri}", member, ".png") for uri, member in asked]
    assert found == ["a/1.png", "a/1-2.png", "A/1-3.png", "c.tar/x/_/1.png", "v1.2.png"]
    assert names.of("s3://b/" + "ä" * 300 + ".jpg", None, None).endswith(".jpg")


def test_common_folder() -> None:
    assert common_folder(["/d/a/1.png", "/d/ab/2.png"]) == "/d/"
    assert common_folder(["/d/b/3.png"], "/d/") == "/d/"
    assert common_folder([]) is None
