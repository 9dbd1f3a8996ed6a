"""Letterboxed images as rows of a table: the part of `prepare` that both image tasks share, and tensors from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.config import check
from pipeline.errors import InputError
from pipeline.images.inputs import Fitted, decode_fitted
from pipeline.rows import InputKind, binary_values, each_row

#: Inputs of the image tasks: image files, image files in tar archives, and binary values in Parquet.
IMAGES = InputKind(
    suffixes=(
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".dib"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".avif", ".heic", ".heif", ".hif"),
        *(".tar", ".tgz", ".parquet"),
    )
)
#: Size in pixels of the upright input image.
SIZES = [("height", pa.int32()), ("width", pa.int32())]

_BOXED = [("image", pa.large_binary()), *SIZES, ("valid_height", pa.int32()), ("valid_width", pa.int32())]


class Box(Protocol):
    """Settings of a task: the size of the box (the model's input size), and the limit of pixels."""

    @property
    def height_px(self) -> int: ...
    @property
    def width_px(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


def prepare(
    task: Box,
    rows: pa.Table,
    label: Callable[[bytes, Fitted], np.ndarray] | None = None,
    *,
    stretch: bool = False,
) -> pa.Table:
    """Decode and letterbox images: returns the columns `_BOXED`, ``error``, and ``label`` if a function is given. With
    ``stretch`` they fill the box, whatever their aspect."""

    def work(pair: tuple[pa.Scalar, pa.Scalar]) -> dict[str, Any]:
        data, annotation = pair[0].as_py(), pair[1].as_py()
        fitted = decode_fitted(data, task.max_pixels, task.height_px, task.width_px, stretch=stretch)
        found: dict[str, Any] = {name: getattr(fitted, name) for name, _ in _BOXED[1:]}
        found["image"] = fitted.pixels.tobytes()
        if label is not None:
            if annotation is None:
                raise InputError("bad_label", "there is no label")
            found["label"] = label(annotation, fitted).tobytes()
        return found

    found, errors = each_row("prepare", zip(rows["data"], rows["label"], strict=True), work)
    columns = [*_BOXED, *([("label", pa.large_binary())] if label is not None else [])]
    arrays = {name: pa.array([row and row[name] for row in found], kind) for name, kind in columns}
    return pa.table(arrays | {"error": errors})


def raw(column: pa.ChunkedArray, *shape: int) -> Tensor:
    """Uint8 arrays that are stored as raw bytes in a binary column, as one tensor (b, *shape)."""
    found = np.empty((len(column), *shape), np.uint8)
    for index, value in enumerate(binary_values(column)):
        found[index] = np.frombuffer(value, np.uint8).reshape(shape)
    return torch.from_numpy(found)


def images(rows: pa.Table, task: Box) -> Tensor:
    """The letterboxed images, (b, 3, h, w) uint8."""
    return raw(rows["image"], task.height_px, task.width_px, 3).permute(0, 3, 1, 2)


def valid(rows: pa.Table, task: Box) -> Tensor:
    valid = torch.zeros(rows.num_rows, 1, task.height_px, task.width_px)
    sizes = zip(rows["valid_height"].to_pylist(), rows["valid_width"].to_pylist(), strict=True)
    for index, (height, width) in enumerate(sizes):
        valid[index, :, :height, :width] = 1
    return valid


def unit(image: Tensor) -> Tensor:
    """Images in [0, 1]. Uint8 images are divided by 255; float images are in [0, 1] already."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def check_box(task: Box) -> None:
    for name in ("height_px", "width_px", "max_pixels"):
        check(task, name, getattr(task, name) >= 1, "be at least 1")
