"""Images that are cut into tiles, as rows of a table: as they are for the stream, cut for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.images.inputs import NO_CLASS, PADDING, decode_scaled, scale_label
from pipeline.images.labels import LabelRules
from pipeline.images.letterbox import SIZES
from pipeline.images.stitching import Tiling
from pipeline.images.strips import open_strips
from pipeline.rows import binary_column, each_row

_SAMPLES = [("image", pa.large_binary()), *SIZES, ("valid_height", pa.int32()), ("valid_width", pa.int32())]
_COLUMNS = [*_SAMPLES, ("file", pa.string())]
_LEAST_LABELLED = 0.05  # part of a tile's pixels that must have a class, so that training takes it


def prepare(inputs: pa.Table, max_pixels: int, scale: float) -> pa.Table:
    """Decode and scale images. Their pixels, (valid_height, valid_width, 3), may have any size.

    Where ``file`` is not null, it names a format, and ``image`` is an image file of it, of which `strips.StripImage`
    reads rows. It has been read once.
    """

    def work(data: pa.Scalar) -> dict[str, Any]:
        file = data.as_py()
        large = open_strips(file, max_pixels, scale)
        if large is not None and large.is_sound():
            sizes = {name: getattr(large, name) for name in ("height", "width", "valid_height", "valid_width")}
            return sizes | {"image": large.data, "file": large.name}
        pixels, height, width = decode_scaled(file, max_pixels, scale)
        return _row(pixels, height, width) | {"image": pixels.tobytes(), "file": None}

    found, errors = each_row("prepare", inputs["data"], work)
    return _table(found, errors, _COLUMNS)


def prepare_samples(inputs: pa.Table, max_pixels: int, scale: float, tiling: Tiling, rules: LabelRules) -> pa.Table:
    """Tiles of labelled images and of their labels, as training samples. An image that fails has one row, its error.

    Tiles of which hardly a pixel has a class are left out, unless the image has no others.
    """

    def work(pair: tuple[pa.Scalar, pa.Scalar]) -> list[dict[str, Any]]:
        data, annotation = pair[0].as_py(), pair[1].as_py()
        pixels, height, width = decode_scaled(data, max_pixels, scale)
        if annotation is None:
            raise InputError("bad_label", "there is no label")
        label = scale_label(rules.read(annotation, height, width), *pixels.shape[:2])
        row = _row(pixels, height, width)
        cut = [
            (_tile(pixels, top, left, tiling, PADDING), _tile(label, top, left, tiling, NO_CLASS))
            for top in tiling.starts(*pixels.shape[:2])[0]
            for left in tiling.starts(*pixels.shape[:2])[1]
        ]
        known = [float((part != NO_CLASS).mean()) for _, part in cut]
        least = min(_LEAST_LABELLED, max(known))
        return [
            row | {"image": image.tobytes(), "label": part.tobytes()}
            for (image, part), share in zip(cut, known, strict=True)
            if share >= least
        ]

    found, errors = each_row("prepare", zip(inputs["data"], inputs["label"], strict=True), work)
    rows: list[dict[str, Any] | None] = []
    causes: list[Any] = []
    for tiles, error in zip(found, errors.to_pylist(), strict=True):
        rows += tiles or [None]
        causes += [error] * len(tiles or [None])
    return _table(rows, pa.array(causes, errors.type), [*_SAMPLES, ("label", pa.large_binary())])


def _row(pixels: np.ndarray, height: int, width: int) -> dict[str, Any]:
    return {
        "height": height,
        "width": width,
        "valid_height": pixels.shape[0],
        "valid_width": pixels.shape[1],
    }


def _tile(values: np.ndarray, top: int, left: int, tiling: Tiling, outside: int) -> np.ndarray:
    tile = np.full((tiling.height_px, tiling.width_px, *values.shape[2:]), outside, np.uint8)
    part = values[top : top + tiling.height_px, left : left + tiling.width_px]
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def _table(rows: list[dict[str, Any] | None], errors: pa.Array, columns: list[tuple[str, pa.DataType]]) -> pa.Table:
    arrays: dict[str, Any] = {}
    for name, kind in columns:
        values = [row and row[name] for row in rows]
        arrays[name] = binary_column(values) if pa.types.is_large_binary(kind) else pa.array(values, kind)
    return pa.table(arrays | {"error": errors})
