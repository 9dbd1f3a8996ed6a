"""Corrected labels, as people export them from Label Studio and CVAT: shapes of classes, drawn into class ids."""

from __future__ import annotations

import io
import json
import posixpath
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.exports.regions import filled
from pipeline.exports.rle import from_brush_bytes, from_run_lengths

#: Draws the pixels of a shape: booleans (h, w) for (h, w). `ValueError` and the like if it is broken.
Draw = Callable[[int, int], np.ndarray]

_MAX_PIXELS = 100_000_000
_NO_SHAPES = ("tag", "attribute")


@dataclass(frozen=True, kw_only=True)
class Shape:
    class_name: str
    draw: Draw
    level: int = 0
    """Shapes of a higher level lie on top."""


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """An image that a person has annotated."""

    name: str
    """Its name in the queue."""
    height: int
    width: int
    shapes: Sequence[Shape]
    problem: str | None = None
    """Why it cannot be used."""

    def label(self, ids: Mapping[str, int], rest: int | None, before: np.ndarray) -> np.ndarray:
        """Class ids (h, w) uint8; ``rest`` where there is no shape. ``before``: the class ids that were shown (h, w).

        Where shapes of one level lie over each other, one that gives a pixel another class than ``before`` wins, and
        of several such the last. Otherwise a class that is painted over another could be lost, since the shape of
        the other class is still there.

        `InputError` ``bad_label``: a shape is broken or of an unknown kind, the size is not that of ``before``, or
        ``rest`` is None and there are pixels without a shape.
        """
        if self.problem is not None:
            raise InputError("bad_label", self.problem)
        if (self.height, self.width) != before.shape or self.height * self.width > _MAX_PIXELS:
            raise InputError("bad_label", f"the annotation is of an image of {self.height} x {self.width} pixels")
        label = np.full(before.shape, 0 if rest is None else rest, np.uint8)
        covered = np.zeros(label.shape, bool)
        for level in sorted({shape.level for shape in self.shapes}):
            drawn = [(ids[shape.class_name], self._drawn(shape)) for shape in self.shapes if shape.level == level]
            for class_id, inside in drawn:
                label[inside] = class_id
                covered |= inside
            for class_id, inside in drawn:
                label[inside & (before != class_id)] = class_id
        if rest is None and not covered.all():
            count = int((~covered).sum())
            raise InputError("bad_label", f"{count} pixels have no class; fill names one for them")
        return label

    def _drawn(self, shape: Shape) -> np.ndarray:
        try:
            return shape.draw(self.height, self.width)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as reason:
            raise InputError("bad_label", f"a shape of class {shape.class_name!r} is broken") from reason


def read_annotations(uri: str) -> tuple[list[Annotated], int]:
    """The annotated images of an export, and how many have no annotation.

    `RequestError` unless it is JSON of Label Studio, or CVAT's annotations.xml or the archive with it.
    """
    try:
        data = storage.read(uri)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as reason:
        raise RequestError(f"labels {uri!r}: no such file") from reason
    except OSError as reason:
        raise RequestError(f"labels {uri!r}: the file cannot be read") from reason
    read = _cvat if data.startswith(b"PK") or data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") else _label_studio
    try:
        every = list(read(data))
    except (ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile, ElementTree.ParseError) as reason:
        rule = "must be the JSON that Label Studio exports, or annotations.xml of CVAT for images 1.1, or its archive"
        raise RequestError(f"labels {uri!r}: {rule}") from reason
    found = [item for item in every if item is not None]
    return found, len(every) - len(found)


def _label_studio(data: bytes) -> Iterator[Annotated | None]:
    """The tasks of a JSON export, each with its newest annotation; None for tasks without one."""
    for task in json.loads(data):
        annotations = [item for item in task["annotations"] if not item.get("was_cancelled")]
        results = [item for item in annotations[-1]["result"] if "original_width" in item] if annotations else []
        if not results:
            yield None
            continue
        shapes, problem = [], None
        for item in results:
            kind = item["type"]
            if kind not in _LABEL_STUDIO_SHAPES:
                problem = f"a shape of the type {kind!r}, which is not read here"
                continue
            draw = _label_studio_draw(kind, item["value"])
            shapes += [Shape(class_name=name, draw=draw) for name in item["value"][kind]]
        yield Annotated(
            name=str(task["data"].get("name") or posixpath.basename(task["data"]["image"])),
            height=int(results[0]["original_height"]),
            width=int(results[0]["original_width"]),
            shapes=shapes,
            problem=problem,
        )


def _label_studio_draw(kind: str, value: Mapping[str, Any]) -> Draw:
    return lambda height, width: _LABEL_STUDIO_SHAPES[kind](value, height, width)


def _percent(points: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Points in percent of the image, as Label Studio has them, in pixels."""
    return np.array(points, np.float64) * [width / 100, height / 100]


def _rectangle(value: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    if value.get("rotation"):
        raise ValueError("a rotated box")
    left, top = value["x"], value["y"]
    right, bottom = left + value["width"], top + value["height"]
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return filled(_percent(corners, height, width), height, width)


_LABEL_STUDIO_SHAPES: dict[str, Callable[[Mapping[str, Any], int, int], np.ndarray]] = {
    "brushlabels": lambda value, height, width: from_brush_bytes(value["rle"], height, width),
    "polygonlabels": lambda value, height, width: filled(_percent(value["points"], height, width), height, width),
    "rectanglelabels": _rectangle,
}


def _cvat(data: bytes) -> Iterator[Annotated | None]:
    """The images of annotations.xml, or of the archive with it that CVAT makes; None for images without a shape."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read("annotations.xml")
    root = ElementTree.fromstring(data)
    if root.tag != "annotations":
        raise ValueError("no annotations")
    for image in root.iter("image"):
        found = [shape for shape in image if shape.tag not in _NO_SHAPES]
        if not found:
            yield None
            continue
        unknown = [shape.tag for shape in found if shape.tag not in _CVAT_SHAPES]
        yield Annotated(
            name=posixpath.basename(image.attrib["name"]),
            height=int(image.attrib["height"]),
            width=int(image.attrib["width"]),
            shapes=[
                Shape(class_name=shape.attrib["label"], draw=_cvat_draw(shape), level=int(shape.get("z_order", 0)))
                for shape in found
                if shape.tag in _CVAT_SHAPES
            ],
            problem=f"a shape of the type {unknown[0]!r}, which is not read here" if unknown else None,
        )


def _cvat_draw(shape: ElementTree.Element) -> Draw:
    return lambda height, width: _CVAT_SHAPES[shape.tag](shape.attrib, height, width)


def _cvat_mask(shape: Mapping[str, str], height: int, width: int) -> np.ndarray:
    left, top, columns, rows = (int(shape[name]) for name in ("left", "top", "width", "height"))
    if not (0 <= left <= left + columns <= width and 0 <= top <= top + rows <= height):
        raise ValueError("a mask outside of its image")
    inside = np.zeros((height, width), bool)
    lengths = [int(length) for length in shape["rle"].split(",")]
    inside[top : top + rows, left : left + columns] = from_run_lengths(lengths, rows * columns).reshape(rows, columns)
    return inside


def _cvat_polygon(shape: Mapping[str, str], height: int, width: int) -> np.ndarray:
    points = [[float(value) for value in pair.split(",")] for pair in shape["points"].split(";")]
    return filled(np.array(points), height, width)


def _cvat_box(shape: Mapping[str, str], height: int, width: int) -> np.ndarray:
    if float(shape.get("rotation", 0)):
        raise ValueError("a rotated box")
    left, top, right, bottom = (float(shape[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    return filled(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), height, width)


_CVAT_SHAPES: dict[str, Callable[[Mapping[str, str], int, int], np.ndarray]] = {
    "mask": _cvat_mask,
    "polygon": _cvat_polygon,
    "box": _cvat_box,
}
