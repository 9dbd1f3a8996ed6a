"""What an output of a segmentation network means: logits, probabilities or ids, told from its values on an image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.models.segmenters.onnx import Gives, Layout, OnnxConfig

_SUM = {True: 5e-3, False: 1e-3}  # how far from 1 probabilities may sum, in half precision or not
_NAMES: dict[Gives, str] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "ids": "ids of classes",
    "object_logit": "the logit of the second class",
    "object_probability": "the probability of the second class",
}


class Unfit(Exception):
    """An output is no result of a segmentation network. The message names the tensor and what it has."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    gives: Gives
    layout: Layout
    text: str
    """For people."""


def read_output(
    name: str, value: Tensor, config: OnnxConfig, size: tuple[int, int], asked: Gives | None = None
) -> Meaning:
    """The meaning of an output for one image of this size; ``asked`` is what it is said to give. `Unfit` if none."""
    shown = f"output {name!r} has the shape ({', '.join(map(str, value.shape))})"
    if value.ndim not in (3, 4):
        kind = ", as a network has that classifies whole images" if value.ndim == 2 else ""
        raise Unfit(f"{shown}{kind}; it must have a class, or a value for each class, at every pixel")
    if value.is_floating_point() and not value.isfinite().all():
        raise Unfit(
            f"output {name!r} has values that are not finite (NaN or infinite) on a drawn image; --mean, --std or "
            "--scale may be wrong"
        )
    layout, channels = _channels(value, config, size, shown)
    gives = _gives(value, config.classes, channels) if asked is None else asked
    _check_asked(gives, value, config.classes, channels, shown)
    rows = value.shape[-2 if layout == "nchw" else 1]
    part = "" if rows == size[0] else f" at 1/{round(size[0] / rows)} of the size"
    part = part if rows <= size[0] else f" at {rows / size[0]:.3g} times the size"
    return Meaning(gives=gives, layout=layout, text=f"{_NAMES[gives]}{part} (--gives)")


def _channels(value: Tensor, config: OnnxConfig, size: tuple[int, int], shown: str) -> tuple[Layout, int]:
    """The order of the axes, and the number of values of a pixel."""
    if value.ndim == 3:
        if not _is_picture(value.shape[1], value.shape[2], size):
            raise Unfit(f"{shown}, and its rows and columns are not those of an image of {size[0]} x {size[1]} pixels")
        return "nchw", 1
    sides: dict[Layout, tuple[int, int, int]] = {
        "nchw": (value.shape[1], value.shape[2], value.shape[3]),
        "nhwc": (value.shape[3], value.shape[1], value.shape[2]),
    }
    possible: dict[Layout, int] = {name: part[0] for name, part in sides.items() if _is_picture(part[1], part[2], size)}
    if not possible:
        raise Unfit(f"{shown}, and its rows and columns are not those of an image of {size[0]} x {size[1]} pixels")
    ok: list[Layout] = [name for name, count in possible.items() if count in (1, config.classes)]
    names: list[Layout] = ok or list(possible)
    layout = config.layout if config.layout in names else names[0]
    return layout, possible[layout]


def _is_picture(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether rows and columns are those of the image, or of the image made smaller or larger, but for rounding."""
    if rows < 1 or columns < 1:
        return False
    across, down = size[1] / columns, size[0] / rows
    slack = max(1 / rows, 1 / columns) + 1e-6
    return abs(across / down - 1) <= slack and (rows > 1 or columns > 1 or size == (1, 1))


def _gives(value: Tensor, classes: int, channels: int) -> Gives:
    """What the values are. Zeros and ones of two classes may be ids or probabilities, with the same masks."""
    if channels == 1:
        low, high = float(value.min()), float(value.max())
        if value.is_floating_point() and classes == 2 and low >= 0 and high <= 1:
            return "object_probability"
        is_whole = not value.is_floating_point() or bool((value == value.round()).all())
        return "ids" if is_whole else "object_logit"
    if value.is_floating_point() and value.ndim == 4 and value.min() >= 0:
        sums = value.float().sum(1 if value.shape[1] == channels else 3)
        if (sums - 1).abs().max() <= _SUM[value.dtype.itemsize == 2]:
            return "probabilities"
    return "logits"


def _check_asked(gives: Gives, value: Tensor, classes: int, channels: int, shown: str) -> None:
    if gives in ("logits", "probabilities") and channels != classes:
        raise Unfit(f"{shown}, which is {channels} values for each pixel, and there are {classes} classes")
    if gives not in ("logits", "probabilities") and channels != 1:
        raise Unfit(f"{shown}, which is {channels} values for each pixel, and {_NAMES[gives]} would be one")
    if gives.startswith("object_") and classes != 2:
        raise Unfit(f"{shown}, which is {_NAMES[gives]} alone: there must be 2 classes, and there are {classes}")
    if gives == "ids" and (value.min() < 0 or value.max() >= classes):
        found = f"{int(value.min())} to {int(value.max())}"
        raise Unfit(f"{shown} and ids from {found}, and the ids of the {classes} classes are 0 to {classes - 1}")
    if gives == "object_probability" and (value.min() < 0 or value.max() > 1):
        raise Unfit(f"{shown} and values outside of 0 to 1, which are no probabilities")
    if gives == "probabilities" and value.min() < 0:
        raise Unfit(f"{shown} and values below 0, which are no probabilities")
