"""The forms that rows are exported in. Each is a class that gets rows one by one and writes files into a folder."""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exports.names import Names
from pipeline.exports.regions import polygons, regions
from pipeline.exports.rle import brush_bytes, coco_counts, cvat_runs
from pipeline.images.outputs import HUGGINGFACE_FEATURES, decode_mask
from pipeline.originals import paragraphs
from pipeline.table.schema import with_huggingface_features

IMAGES, DOCUMENTS = "images", "documents"
_FILE_BYTES = 256 << 20
_GROUP_BYTES = 32 << 20
_BLANK_LINES = re.compile(r"(?:\r\n|[\n\r])(?:[^\S\n\r]*(?:\r\n|[\n\r]))+")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every form needs to know before the first row."""

    out: Path
    names: Names
    columns: pa.Schema
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    background: frozenset[int] = frozenset()
    as_polygons: bool = False
    images: Path | None = None
    """Folder with copies of the images, under their names; None: there are none."""


class Form(Protocol):
    kinds: ClassVar[tuple[str, ...]]
    """The kinds of tables that have this form."""

    def __init__(self, plan: Plan) -> None: ...

    def add(self, row: Mapping[str, Any]) -> None:
        """Export a row that is done. That of a document has its ``text``, too."""
        ...

    def close(self) -> None: ...


class _JsonList:
    """A file with a JSON list that grows, with text before and after it."""

    def __init__(self, path: Path, before: str = "") -> None:
        self._file = path.open("w", encoding="utf-8")
        self._file.write(before + "[")
        self._separator = "\n"

    def add(self, value: Any) -> None:
        self._file.write(self._separator + json.dumps(value, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"

    def close(self, after: str = "") -> None:
        self._file.write("\n]" + after + "\n")
        self._file.close()


class _Manifest:
    """``manifest.csv``: which file is which input's."""

    def __init__(self, out: Path) -> None:
        self._file = (out / "manifest.csv").open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["file", "uri", "member", "model", "run_id", "confidence"])

    def add(self, file: str, row: Mapping[str, Any]) -> None:
        named = ("uri", "member", "model", "run_id", "confidence")
        self._writer.writerow([file, *(row[name] for name in named)])

    def close(self) -> None:
        self._file.close()


class _Files(ABC):
    """A file for each row, and the manifest."""

    ending: ClassVar[str]

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._manifest = _Manifest(plan.out)

    def add(self, row: Mapping[str, Any]) -> None:
        name = self._plan.names.of(row["uri"], row["member"], self.ending)
        path = self._plan.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content(row))
        self._manifest.add(name, row)

    @abstractmethod
    def content(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a row's file."""

    def close(self) -> None:
        self._manifest.close()


class Png(_Files):
    """Masks as the PNG files that they are in the table, and ``classes.json``."""

    kinds: ClassVar[tuple[str, ...]] = (IMAGES,)
    ending: ClassVar[str] = ".png"

    def content(self, row: Mapping[str, Any]) -> bytes:
        return row["mask"]["bytes"]

    def close(self) -> None:
        super().close()
        write_classes(self._plan)


class Text(_Files):
    """Documents as UTF-8 text with a blank line between paragraphs. Blank lines inside a paragraph become line ends."""

    kinds: ClassVar[tuple[str, ...]] = (DOCUMENTS,)
    ending: ClassVar[str] = ".txt"

    def content(self, row: Mapping[str, Any]) -> bytes:
        found = (_BLANK_LINES.sub("\n", part.strip()) for part in paragraphs(row, row["text"]))
        return ("\n\n".join(part for part in found if part) + "\n").encode()


class Coco:
    """COCO: ``instances.json``, with an annotation for each region of each class."""

    kinds: ClassVar[tuple[str, ...]] = (IMAGES,)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        categories = [
            {"id": number + 1, "name": name, "supercategory": ""}
            for number, name in enumerate(plan.classes)
            if number not in plan.background
        ]
        before = f'{{"info": {{}}, "licenses": [], "categories": {json.dumps(categories)},\n"annotations": '
        self._annotations = _JsonList(plan.out / "instances.json", before)
        # The lists of images and of annotations grow together, and one can only be written after the other.
        self._waiting = plan.out / "images.part"
        self._images = _JsonList(self._waiting)
        self._image_id = self._annotation_id = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._image_id += 1
        height, width = row["height"], row["width"]
        name = self._plan.names.of(row["uri"], row["member"], None)
        size = {"height": height, "width": width}
        self._images.add({"id": self._image_id, "file_name": name, **size, "coco_url": row["uri"]})
        for region in regions(decode_mask(row["mask"]["bytes"]), self._plan.background):
            self._annotation_id += 1
            counts = (
                [] if self._plan.as_polygons else coco_counts(region.inside, region.top, region.left, height, width)
            )
            self._annotations.add(
                {
                    "id": self._annotation_id,
                    "image_id": self._image_id,
                    "category_id": region.class_id + 1,
                    "iscrowd": 0,
                    "area": int(region.inside.sum()),
                    "bbox": region.box,
                    "segmentation": polygons(region)
                    if self._plan.as_polygons
                    else {"size": [height, width], "counts": counts},
                }
            )

    def close(self) -> None:
        self._images.close()
        self._annotations.close(',\n"images": ')
        with (self._plan.out / "instances.json").open("a", encoding="utf-8") as file:
            with self._waiting.open(encoding="utf-8") as images:
                file.writelines(images)
            file.write("}\n")
        self._waiting.unlink()


class Cvat:
    """CVAT for images 1.1: ``annotations.xml``, with a mask for each region of each class."""

    kinds: ClassVar[tuple[str, ...]] = (IMAGES,)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._file = (plan.out / "annotations.xml").open("w", encoding="utf-8")
        self._number = 0
        labels = "".join(
            f"<label><name>{escape(_xml(name))}</name><color>{_hex(color)}</color><type>any</type>"
            "<attributes></attributes></label>\n"
            for number, (name, color) in enumerate(zip(plan.classes, plan.palette, strict=True))
            if number not in plan.background
        )
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        self._file.write(f"<meta><task><labels>\n{labels}</labels></task></meta>\n")

    def add(self, row: Mapping[str, Any]) -> None:
        name = quoteattr(_xml(self._plan.names.of(row["uri"], row["member"], None)))
        size = f'width="{row["width"]}" height="{row["height"]}"'
        self._file.write(f'<image id="{self._number}" name={name} {size}>\n')
        self._number += 1
        for region in regions(decode_mask(row["mask"]["bytes"]), self._plan.background):
            left, top, width, height = region.box
            label = quoteattr(_xml(self._plan.classes[region.class_id]))
            box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
            runs = cvat_runs(region.inside)
            self._file.write(f'<mask label={label} source="auto" occluded="0" rle="{runs}" {box} z_order="0"></mask>\n')
        self._file.write("</image>\n")

    def close(self) -> None:
        self._file.write("</annotations>\n")
        self._file.close()


class LabelStudio:
    """Label Studio: ``tasks.json`` with predictions, and ``config.xml``, the labelling interface that they fit."""

    kinds: ClassVar[tuple[str, ...]] = (IMAGES, DOCUMENTS)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tasks = _JsonList(plan.out / "tasks.json")
        self._is_of_images = "mask" in plan.columns.names
        (plan.out / "config.xml").write_text(self._config(), encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        task: dict[str, Any] = {"data": {"uri": row["uri"], "member": row["member"]}}
        if self._is_of_images:
            task["data"] |= self._image(row)
            result = self._brushes(row)
        else:
            task["data"]["text"] = row["text"]
            result = _ranges(row)
        prediction = {"model_version": row["model"], "result": result}
        if row["confidence"] is not None:
            prediction["score"] = row["confidence"]
        self._tasks.add(task | {"predictions": [prediction]})

    def close(self) -> None:
        self._tasks.close()

    def _image(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The name of an image, and where Label Studio finds it: a copy by its own server for files of this machine."""
        name, images = self._plan.names.of(row["uri"], row["member"], None), self._plan.images
        if images is None:
            return {"image": row["uri"], "name": name}
        return {"image": f"/data/local-files/?d={quote(str(images.resolve() / name).lstrip('/'))}", "name": name}

    def _brushes(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A brush region for each class that the mask has."""
        mask = decode_mask(row["mask"]["bytes"])
        shared = {
            "type": "brushlabels",
            "from_name": "class",
            "to_name": "image",
            "original_width": row["width"],
            "original_height": row["height"],
            "image_rotation": 0,
        }
        found = []
        for number, pixels in enumerate(row["class_pixels"]):
            if pixels and number not in self._plan.background:
                value = {"format": "rle", "rle": list(brush_bytes(mask == number))}
                value["brushlabels"] = [self._plan.classes[number]]
                found.append({"id": f"class{number}", **shared, "value": value})
        return found

    def _config(self) -> str:
        if not self._is_of_images:
            labels = '<Labels name="label" toName="text"><Label value="paragraph"/></Labels>'
            return f'<View>\n{labels}\n<Text name="text" value="$text"/>\n</View>\n'
        labels = "".join(
            f'<Label value={quoteattr(_xml(name))} background="{_hex(color)}"/>\n'
            for number, (name, color) in enumerate(zip(self._plan.classes, self._plan.palette, strict=True))
            if number not in self._plan.background
        )
        tags = f'<BrushLabels name="class" toName="image">\n{labels}</BrushLabels>'
        return f'<View>\n<Image name="image" value="$image"/>\n{tags}\n</View>\n'


class HuggingFace:
    """Parquet files that ``datasets.load_dataset(folder)`` opens: masks are images, documents have their text."""

    kinds: ClassVar[tuple[str, ...]] = (IMAGES, DOCUMENTS)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._is_of_images = "mask" in plan.columns.names
        fields = [field for field in plan.columns if field.name != "error"]
        schema = pa.schema(fields if self._is_of_images else [*fields, ("text", pa.string())])
        self._schema = with_huggingface_features(schema, HUGGINGFACE_FEATURES if self._is_of_images else {})
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = self._written = self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += 1024 + len(row["mask"]["bytes"] if self._is_of_images else row["text"])
        if self._bytes >= _GROUP_BYTES:
            self._write()

    def close(self) -> None:
        self._write()
        if self._writer is not None:
            self._writer.close()
        if self._is_of_images:
            write_classes(self._plan)

    def _write(self) -> None:
        """Write the waiting rows as a row group, in a new file if the present one is large enough."""
        if self._writer is not None and self._written >= _FILE_BYTES:
            self._writer.close()
            self._writer = None
        if not self._rows:
            return
        if self._writer is None:
            (self._plan.out / "data").mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(self._plan.out / "data" / f"train-{self._files:05d}.parquet", self._schema)
            self._files, self._written = self._files + 1, 0
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._written += self._bytes
        self._rows, self._bytes = [], 0


#: The forms, by the names that people give.
FORMS: dict[str, type[Form]] = {
    "png": Png,
    "coco": Coco,
    "label-studio": LabelStudio,
    "cvat": Cvat,
    "huggingface": HuggingFace,
    "text": Text,
}


def _ranges(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A labelled range for each paragraph. Label Studio counts code points, as the table does."""
    found = []
    for number, (span, text) in enumerate(zip(row["paragraphs"], paragraphs(row, row["text"]), strict=True)):
        value = {"start": span["start"], "end": span["end"], "text": text, "labels": ["paragraph"]}
        found.append(
            {"id": f"paragraph{number}", "type": "labels", "from_name": "label", "to_name": "text", "value": value}
        )
    return found


def write_classes(plan: Plan, **more: Any) -> None:
    """Write ``classes.json``, as labelled folders have it, with more members."""
    content = {"classes": plan.classes, "palette": plan.palette, **more}
    (plan.out / "classes.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _xml(text: str) -> str:
    """A text without the characters that XML cannot hold."""
    return _NOT_XML.sub("_", text)
