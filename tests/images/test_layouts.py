"""Every layout of every format gives the pixels that its standard says, or an error that names the layout.

A second decoder (tifffile, imagecodecs) reads the files, too, so that the table itself cannot be wrong.
"""

from __future__ import annotations

import logging
import re
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.images.inputs import decode_fitted, decode_image
from testing.image_layouts import REFUSED, Layout, layouts, upright

LAYOUTS = layouts()
#: The kinds of layouts: their names up to the first number or comma.
KINDS = sorted({re.split(r"[\d,(]", name)[0].strip() for name in LAYOUTS})


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("PIL"), "disabled", True)


def of_kind(kind: str) -> list[tuple[str, Layout]]:
    chosen = [name for name in LAYOUTS if re.split(r"[\d,(]", name)[0].strip() == kind]
    return [(name, LAYOUTS[name]()) for name in chosen]


def refusal(name: str) -> str | None:
    return next((words for pattern, words in REFUSED.items() if re.fullmatch(pattern, name)), None)


def wrong(name: str, layout: Layout) -> str | None:
    """What is wrong with the product's pixels of a layout, or with its refusal."""
    words = refusal(name)
    try:
        image = decode_image(layout.data, 10_000)
    except InputError as reason:
        if words is None:
            return f"{name}: refused: {reason.message}"
        is_named = reason.code == "not_an_image" and words in reason.message
        return None if is_named else f"{name}: the refusal says {reason.message}, not {words}"
    if words is not None or layout.colours is None:
        return f"{name}: taken"
    if image.shape != layout.colours.shape:
        return f"{name}: {image.shape}, not {layout.colours.shape}"
    far = float(abs(image - layout.colours).max())
    return f"{name}: off by {far:.1f}" if far > layout.tolerance + 1e-6 else None


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_right_or_the_layout_is_named(kind: str) -> None:
    found = of_kind(kind)
    assert found
    assert [text for name, layout in found if (text := wrong(name, layout))] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("tiff", "png"))])
def test_another_decoder_finds_the_same_samples(kind: str) -> None:
    for name, layout in of_kind(kind):
        if layout.samples is not None and "two pages" not in name:
            read = imagecodecs.png_decode if kind.startswith("png") else lambda data: tifffile.imread(BytesIO(data))
            found = read(layout.data)
            np.testing.assert_array_equal(found.reshape(layout.samples.shape), layout.samples, err_msg=name)


def test_the_table_notices_wrong_pixels() -> None:
    layout = LAYOUTS["tiff rgb 16, planes"]()
    assert layout.colours is not None
    assert wrong("tiff rgb 16, planes", layout) is None
    swapped = Layout(data=layout.data, colours=layout.colours[..., ::-1])
    assert "off by" in (wrong("swapped", swapped) or "")
    assert wrong("tiff mask", layout) == "tiff mask: taken"


def test_every_refusal_is_of_a_layout_in_the_table() -> None:
    assert [pattern for pattern in REFUSED if not any(re.fullmatch(pattern, name) for name in LAYOUTS)] == []


@pytest.mark.parametrize("name", ["tiff miniswhite 16", "png rgb 16, transparent colour", "bmp 8, 2 grays"])
def test_a_box_of_the_same_size_has_the_same_pixels(name: str) -> None:
    layout = LAYOUTS[name]()
    whole = decode_image(layout.data, 10_000)
    fitted = decode_fitted(layout.data, 10_000, *whole.shape[:2])
    np.testing.assert_array_equal(fitted.pixels, whole)


def test_uncompressed_planes_that_are_cut_are_truncated() -> None:
    for name in ("tiff rgb 16, planes", "tiff ycbcr 8", "tiff miniswhite 8, fill order 2 <"):
        data = LAYOUTS[name]().data
        with pytest.raises(InputError) as caught:
            decode_image(data[:-100], 10_000)
        assert caught.value.code == "truncated", name


def test_upright_by_hand() -> None:
    """Where TIFF 6.0 puts the first row and the first column of the stored pixels."""
    stored = np.array([[1, 2], [3, 4], [5, 6]])
    assert upright(stored, 2).tolist() == [[2, 1], [4, 3], [6, 5]]
    assert upright(stored, 6).tolist() == [[5, 3, 1], [6, 4, 2]]
    assert upright(stored, 8).tolist() == [[2, 4, 6], [1, 3, 5]]
