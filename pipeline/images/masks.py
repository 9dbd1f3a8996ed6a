"""Masks between prediction and the table: class ids as raw bytes, or, of large images, as the PNG that is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.images.outputs import Palette, decode_mask, encode_mask, encode_strips
from pipeline.rows import binary_values

#: A mask as bytes, and the number of pixels of each class if the bytes are a PNG, or else None.
PredictedMask = tuple[bytes, list[int] | None]

_IDS = ["mask", "class_pixels", "height", "width"]  # the columns that `Masks.ids` reads


def raw_mask(strips: Iterable[np.ndarray]) -> PredictedMask:
    """The class ids of all strips, row by row."""
    return b"".join(strip.tobytes() for strip in strips), None


@dataclass(frozen=True, kw_only=True)
class Masks:
    classes: int
    palette: Palette

    def encoded_while_read(self, strips: Iterable[np.ndarray], size: tuple[int, int]) -> PredictedMask:
        """The PNG of a mask of this ``size`` (h, w), of which only a strip is in memory at a time."""
        counts = np.zeros(self.classes, np.int64)

        def counted() -> Iterator[np.ndarray]:
            for strip in strips:
                counts[:] += self._pixels(strip)
                yield strip

        return encode_strips(counted(), *size, self.palette, self._id_type), counts.tolist()

    def ids(self, row: Mapping[str, Any]) -> np.ndarray:
        """The class ids (height, width) of a row that a task has predicted."""
        if row["class_pixels"] is not None:
            return decode_mask(row["mask"])
        return np.frombuffer(row["mask"], self._id_type).reshape(row["height"], row["width"])

    def disagreement(self, predicted: pa.Table, other: pa.Table) -> float:
        """Share of the pixels that differ between two predictions of the same images."""
        pairs = zip(predicted.select(_IDS).to_pylist(), other.select(_IDS).to_pylist(), strict=True)
        found = [(int((self.ids(one) != self.ids(two)).sum()), one["height"] * one["width"]) for one, two in pairs]
        return sum(count for count, _ in found) / max(1, sum(pixels for _, pixels in found))

    def encoded(self, predicted: pa.Table) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """The values of the columns ``mask`` and ``class_pixels`` of the table.

        ``predicted`` has `PredictedMask` in the columns ``mask`` and ``class_pixels``, and ``height`` and ``width``.
        """
        pictures, pixels = [], []
        columns = (predicted[name].to_pylist() for name in ("class_pixels", "height", "width"))
        for mask, counts, height, width in zip(binary_values(predicted["mask"]), *columns, strict=True):
            if counts is None:
                ids = np.frombuffer(mask, self._id_type).reshape(height, width)
                picture, counts = encode_mask(ids, self.palette), self._pixels(ids).tolist()
            else:
                picture = mask.to_pybytes()
            pictures.append({"bytes": picture, "path": None})
            pixels.append(counts)
        return pictures, pixels

    @property
    def _id_type(self) -> type[np.uint8] | type[np.uint16]:
        return np.uint8 if self.classes <= 256 else np.uint16

    def _pixels(self, ids: np.ndarray) -> np.ndarray:
        return np.bincount(ids.ravel(), minlength=self.classes)
