"""Which classes.json is read, and which label files are taken at their word."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError, RequestError
from pipeline.images.inputs import NO_CLASS, decode_label
from pipeline.images.labels import LabelRules, described_classes, read_classes

CLASSES = ("water", "wood", "rock")
PALETTE = ((10, 20, 200), (90, 60, 30), (120, 120, 120))
RULES = LabelRules(classes=CLASSES, palette=PALETTE)
PLAIN = {"classes": list(CLASSES), "palette": [list(color) for color in PALETTE]}
IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def png(values: np.ndarray, colors: Any = None, **settings: Any) -> bytes:
    image = Image.fromarray(values)
    if colors is not None:
        image.putpalette([value for color in colors for value in color])
    buffer = BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


def refusal(rules: LabelRules, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        rules.read(data, 2, 3)
    assert caught.value.code == "bad_label"
    return caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"0": "water", "1": "wood", "2": "rock"}},
        {"classes": {"rock": 2, "water": 0, "wood": 1}},
        {"palette": ["#0a14c8", "5A3C1E", "#787878"]},
        {"palette": {"rock": [120, 120, 120], "water": [10, 20, 200], "wood": "#5a3c1e"}},
        {"palette": {"0": [10, 20, 200], "1": [90, 60, 30], "2": [120, 120, 120]}},
        {"palette": [10, 20, 200, 90, 60, 30, 120, 120, 120]},
        {"ignore_index": None, "labels": "ids", "licence": "CC0"},
    ],
)
def test_classes_as_other_tools_write_them(change: dict[str, Any]) -> None:
    found = described_classes(PLAIN | change)
    assert (found["classes"], found["palette"], found["ignore_index"]) == (CLASSES, PALETTE, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "classes must be a list of names, or an object of ids 0, 1, 2, ... and names, got None"),
        ({"classes": "water"}, "classes must be a list of names, .*, got 'water'"),
        ({"classes": {"0": "water", "2": "rock"}}, "classes must be a list of names"),
        ({"classes": ["water", 7, "rock"]}, "classes must be a list of names"),
        ({"classes": ["water", "water", "rock"]}, "classes must be 2 to 65536 different names"),
        ({"palette": None}, "palette must be a list of 3 colours, one for each class, got None"),
        ({"palette": [[1, 2], [3, 4], [5, 6]]}, r"palette must be of colours \[red, green, blue\] .*, got \[1, 2\]"),
        ({"palette": [[1, 2, 300]] * 3}, r"got \[1, 2, 300\]"),
        ({"palette": [[0.1, 0.2, 0.3]] * 3}, r"got \[0.1, 0.2, 0.3\]"),
        ({"palette": [1, 2, 3, 4]}, "palette must be 3 numbers for each of the 3 classes"),
        ({"palette": {"water": "#000000"}}, "palette must be a colour for each class, by name or by id"),
        ({"ignore_index": "255"}, "ignore_index must be a whole number or null, got '255'"),
        ({"ignore_index": [255]}, r"ignore_index must be a whole number or null, got \[255\]"),
        ({"ignore_index": True}, "ignore_index must be a whole number or null, got True"),
        ({"ignore_index": 1}, r"ignore_index must be not the id of a class \(0 to 2\), got 1"),
        ({"labels": "colours"}, "labels must be 'ids' or 'rgb', got 'colours'"),
        ({"labels": "rgb", "palette": ["#000000"] * 3}, "palette must be a colour of its own for each class"),
        ({"ignore_color": "#0000"}, "ignore_color must be of colours"),
    ],
)
def test_what_classes_json_must_not_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^classes.json: .*{message}"):
        described_classes(PLAIN | change)


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a labelled folder needs classes\.json"):
        read_classes(str(tmp_path))
    (tmp_path / "classes.json").write_text('{\n"classes": [,]}')
    with pytest.raises(RequestError, match=r"/classes.json is not JSON, see its line 2"):
        read_classes(str(tmp_path))
    (tmp_path / "classes.json").write_text('{"classes": []}')
    with pytest.raises(RequestError, match=rf"^{tmp_path}/classes.json must be an object with classes and palette"):
        read_classes(str(tmp_path))
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"], "palette": ["#000000", "#ffffff"]}', "utf-16")
    assert read_classes(str(tmp_path))["classes"] == ("a", "b")


@pytest.mark.parametrize(
    "colors",
    [
        PALETTE,
        [(0, 0, 0), (1, 0, 0), (0, 1, 0)],  # colours of nobody
        [(value, value, value) for value in range(256)],  # what paletted grays have
        [(0, 0, 0), (127, 127, 127), (255, 255, 255)],
    ],
)
def test_palettes_that_do_not_contradict(colors: Any) -> None:
    np.testing.assert_array_equal(RULES.read(png(IDS, colors), 2, 3), IDS)


def test_a_palette_in_another_order_is_refused_by_name() -> None:
    swapped = [PALETTE[1], PALETTE[0], PALETTE[2]]
    message = refusal(RULES, png(IDS, swapped))
    assert "index 0 is 'water', but its colour in the file is that of 1, 'wood'" in message
    assert "index 0 is 'water'" in refusal(RULES, png(np.zeros((2, 3), np.uint8), swapped))


def test_grays_that_became_a_palette_are_refused() -> None:
    """An optimiser stores the gray values 2, 0, 1 as indices 0, 1, 2 of a palette of these grays."""
    message = refusal(RULES, png(IDS, [(2, 2, 2), (0, 0, 0), (1, 1, 1)]))
    assert "index 0 is 'water', but its colour in the file is that of 2, 'rock'" in message


def test_one_common_colour_is_no_contradiction() -> None:
    """Index 0 of most palettes is black, which may be the colour of any class."""
    rules = LabelRules(classes=CLASSES, palette=(PALETTE[0], PALETTE[1], (0, 0, 0)))
    ramp = [(0, 0, 0), *((value, 0, value) for value in range(1, 256))]
    assert rules.read(png(np.zeros((2, 3), np.uint8), ramp), 2, 3).tolist() == [[0] * 3] * 2


def test_values_0_and_255_are_refused_with_a_proposal() -> None:
    mask = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    message = refusal(RULES, png(mask))
    assert "value 255, which is no class: ids are 0 to 2; if 255 marks pixels without a class, set ignore_i" in message
    ignoring = LabelRules(classes=CLASSES, palette=PALETTE, ignore_index=255)
    assert (ignoring.read(png(mask), 2, 3) == [[0, NO_CLASS, 0], [NO_CLASS, NO_CLASS, 0]]).all()
    message = refusal(ignoring, png(np.full((2, 3), 9, np.uint8)))
    assert "value 9, which is no class: ids are 0 to 2, or 255 for no class" in message


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_values_of_few_bits_are_those_that_are_stored(bits: int) -> None:
    """Bits of grays are packed as in the PNG standard; Pillow writes them for palettes, so the file is made by hand."""
    import struct
    import zlib

    values = np.minimum(IDS, (1 << bits) - 1)
    rows = b""
    for row in values:
        packed = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + int(packed.ljust(-(-len(packed) // 8) * 8, "0"), 2).to_bytes(-(-len(packed) // 8), "big")

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_label(data, 2, 3), values)


def test_colours_as_labels() -> None:
    rules = LabelRules(classes=CLASSES, palette=PALETTE, labels="rgb", ignore_color=(0, 0, 0))
    pixels = np.array(PALETTE, np.uint8)[IDS]
    np.testing.assert_array_equal(rules.read(png(pixels), 2, 3), IDS)
    np.testing.assert_array_equal(rules.read(png(IDS, PALETTE), 2, 3), IDS)
    pixels[0, 0] = 0
    assert rules.read(png(pixels), 2, 3)[0, 0] == NO_CLASS
    pixels[1, 2] = (10, 20, 201)
    assert refusal(rules, png(pixels)) == "the label has the colour #0a14c9, which is no class"
    assert refusal(rules, png(np.zeros((2, 3, 4), np.uint8))) == "the label has transparent pixels"
    assert "but an RGB image" in refusal(RULES, png(pixels))


def test_classes_in_another_order_are_mapped_by_name() -> None:
    rules = RULES.for_classes(("rock", "water", "wood"), "models/coast")
    assert rules.read(png(IDS), 2, 3).tolist() == [[1, 2, 0], [0, 2, 1]]
    with pytest.raises(RequestError, match=r"models/coast: 'rock' only in classes.json; 'sand' only in the package"):
        RULES.for_classes(("sand", "water", "wood"), "models/coast")
