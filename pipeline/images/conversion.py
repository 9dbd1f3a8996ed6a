"""Labels of other forms to 8-bit class ids: colours, masks of 0 and 255, numbered instances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from pipeline.errors import InputError
from pipeline.images.inputs import NO_CLASS, decode_colors, decode_numbers, image_size
from pipeline.images.labels import Color, LabelRules
from pipeline.images.outputs import encode_mask

Form = Literal["rgb", "mask", "instances"]

_MAX_PIXELS = 100_000_000
_NO_COLOR: Color = (255, 255, 255)
_TWO_COLORS: tuple[Color, Color] = ((0, 0, 0), (255, 255, 255))


def convert_label(data: bytes, form: Form, rules: LabelRules | None) -> bytes:
    """A label as an indexed PNG of class ids. Raises `InputError` ``bad_label``.

    - ``rgb``: each pixel has the colour of its class in the palette of ``rules``; 255 is written for `ignore_color`.
    - ``mask``: 0 becomes class 0 and 255 class 1.
    - ``instances``: 0 becomes class 0, and the number of any instance class 1.

    ``rules`` give the palette that is written, for the last two of two classes; None: black and white.
    """
    height, width = image_size(data, _MAX_PIXELS)
    ids = _FORMS[form](data, height, width, rules)
    palette = list(_TWO_COLORS if rules is None else rules.palette)
    if NO_CLASS in ids:  # every index in use needs a colour
        palette += [_NO_COLOR] * (NO_CLASS + 1 - len(palette))
    return encode_mask(ids, palette)


def _from_colors(data: bytes, height: int, width: int, rules: LabelRules | None) -> np.ndarray:
    assert rules is not None, "checked with the settings"
    return rules.read(data, height, width)


def _from_mask(data: bytes, height: int, width: int, rules: LabelRules | None) -> np.ndarray:
    colors = decode_colors(data, height, width)
    values = colors[..., 0]
    if (colors != values[..., None]).any():
        raise InputError("bad_label", "the mask has colours, not only black and white")
    wrong = values[(values != 0) & (values != 255)]
    if len(wrong):
        raise InputError("bad_label", f"the mask has the value {wrong[0]}, which is neither 0 nor 255")
    return (values == 255).astype(np.uint8)


def _from_instances(data: bytes, height: int, width: int, rules: LabelRules | None) -> np.ndarray:
    return (decode_numbers(data, height, width) != 0).astype(np.uint8)


_FORMS: dict[str, Callable[[bytes, int, int, LabelRules | None], np.ndarray]] = {
    "rgb": _from_colors,
    "mask": _from_mask,
    "instances": _from_instances,
}
