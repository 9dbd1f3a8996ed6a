"""Merging corrected labels of a queue into a labelled image folder, which ``train_image_segmenter`` reads."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.exports.annotations import Annotated
from pipeline.exports.queue import COLUMNS, COPIES, read_queue
from pipeline.images.inputs import NO_CLASS, decode_image
from pipeline.images.labels import read_classes
from pipeline.images.outputs import decode_mask, encode_mask
from pipeline.json_text import to_json
from pipeline.originals import Originals
from pipeline.rows import FailedInput
from pipeline.source.labelled import split_files
from pipeline.source.texts import read_text

_NO_COLOR = (255, 255, 255)
_SPLITS = ("train", "val", "test")


@dataclass(kw_only=True)
class Merged:
    """What was merged, in numbers of images."""

    added: int = 0
    """New in ``train.txt``."""
    relabelled: int = 0
    """In a split already; they have a new label."""
    corrected: int = 0
    """Of both, those whose label is not the mask that the queue had."""


class LabelledFolder:
    """A labelled image folder that gets more images: ``images``, ``labels``, ``classes.json``, ``train.txt``."""

    def __init__(self, uri: str, queue: str, fill: str | None) -> None:
        """``queue``: the folder whose classes.json a new folder gets. ``fill``: the class of pixels without a shape;
        None: they have no class, if the folder has a value for that.

        `RequestError` if its labels are colours, or if ``fill`` is no class.
        """
        self.uri = storage.canonical(uri)
        self._is_new = not storage.exists(storage.join(uri, "classes.json"))
        self._rules = read_classes(queue if self._is_new else uri)
        self.classes: tuple[str, ...] = self._rules["classes"]
        if self._rules.get("labels") == "rgb":
            raise RequestError(f"into {uri!r} has labels in colours; merge_labels writes class ids")
        if len(self.classes) > NO_CLASS:
            raise RequestError(f"labels of 8 bits name {NO_CLASS} classes at most, there are {len(self.classes)}")
        if fill is not None and fill not in self.classes:
            raise RequestError(f"fill must be the name of a class ({', '.join(self.classes)}), got {fill!r}")
        self._ids = {name: number for number, name in enumerate(self.classes)}
        ignored = self._rules["ignore_index"]
        in_range = ignored is not None and 0 <= ignored <= NO_CLASS
        self._rest = self._ids[fill] if fill is not None else ignored if in_range else None
        self._lines: list[str] = []
        self._known = {image for split in _SPLITS for image in self._listed(split)}

    def check(self, annotated: Sequence[Annotated]) -> None:
        """`RequestError` if a shape has a class that the folder does not have."""
        found = {shape.class_name for item in annotated for shape in item.shapes}
        unknown = sorted(found - set(self.classes))
        if unknown:
            said = ", ".join(map(repr, unknown))
            raise RequestError(
                f"the labels have classes that {self.uri} does not have: {said}; it has {', '.join(self.classes)}"
            )

    def begin(self) -> None:
        """Write classes.json if the folder is new."""
        if self._is_new:
            content = {name: self._rules[name] for name in ("classes", "palette", "ignore_index")}
            storage.write(storage.join(self.uri, "classes.json"), (to_json(content, indent=2) + "\n").encode())

    def label(self, item: Annotated, shown: np.ndarray) -> np.ndarray:
        """The label of an annotated image, (h, w) uint8. ``shown``: the mask that the person was shown, in this
        folder's ids. Raises as `Annotated.label` does."""
        return item.label(self._ids, self._rest, shown)

    def own_ids(self, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """A mask of other classes in the ids of this folder's; -1 for classes that it does not have."""
        return np.array([self._ids.get(name, -1) for name in classes])[mask]

    def add(self, source: Mapping[str, Any], image: bytes, label: np.ndarray) -> bool:
        """Write an image and its label. Returns whether it is new: in no split yet.

        Its name has a hash of its input, so images of the same name from other queues do not replace it, and the same
        input again replaces its label.
        """
        mark = hashlib.sha256(f"{source['uri']}\0{source['member'] or ''}".encode()).hexdigest()[:8]
        stem, ending = posixpath.splitext(source["name"])
        image_name, label_name = f"images/{stem}-{mark}{ending}", f"labels/{stem}-{mark}.png"
        palette = [tuple(color) for color in self._rules["palette"]]
        palette += [_NO_COLOR] * (int(label.max()) + 1 - len(palette))
        storage.write(storage.join(self.uri, image_name), image)
        storage.write(storage.join(self.uri, label_name), encode_mask(label, palette))
        where = storage.join(self.uri, image_name)
        if where in self._known:
            return False
        self._known.add(where)
        self._lines.append(f"{image_name}\t{label_name}\n")
        return True

    def finish(self) -> None:
        """Append the new images to train.txt."""
        if not self._lines:
            return
        where = storage.join(self.uri, "train.txt")
        try:
            text = read_text(where)
        except FileNotFoundError:
            text = ""
        if text and not text.endswith("\n"):
            text += "\n"
        storage.write(where, "".join([text, *self._lines]).encode())
        self._lines = []

    def _listed(self, split: str) -> list[str]:
        if not storage.exists(storage.join(self.uri, f"{split}.txt")):
            return []
        return split_files(self.uri, split)["uri"].to_pylist()


def merge(
    annotated: Sequence[Annotated], queue: str, folder: LabelledFolder, tell: Callable[[FailedInput], None]
) -> Merged:
    """Add annotated images of a queue to a folder. ``tell`` gets those that could not be merged, and why.

    Images are the copies in the queue, or else those at the sources, which must be the ones that were segmented.
    `RequestError`, before anything is written, if the queue is none, or a class is not one of the folder's.
    """
    rows, classes = read_queue(queue, COLUMNS.names), read_classes(queue)["classes"]
    places = {name: place for place, name in enumerate(rows["name"].to_pylist())}
    folder.check(annotated)
    folder.begin()
    done, originals = Merged(), Originals()
    for item in annotated:
        place = places.get(item.name)
        row = {"uri": item.name, "member": None} if place is None else rows.slice(place, 1).to_pylist()[0]
        try:
            if place is None:
                raise InputError("not_found", "the queue has no input of this name")
            shown = folder.own_ids(decode_mask(row["mask"]["bytes"]), classes)
            label = folder.label(item, shown)
            image = _image(queue, row, originals)
            if decode_image(image, label.size).shape[:2] != label.shape:
                raise InputError("changed", "the image is not the one that was segmented")
        except InputError as reason:
            tell(
                FailedInput(uri=row["uri"], member=row["member"], label=None, code=reason.code, message=reason.message)
            )
            continue
        is_new = folder.add(row, image, label)
        done.added, done.relabelled = done.added + is_new, done.relabelled + (not is_new)
        done.corrected += bool((label != shown).any())
    folder.finish()
    return done


def _image(queue: str, row: Mapping[str, Any], originals: Originals) -> bytes:
    try:
        return storage.read(storage.join(queue, COPIES, row["name"]))
    except (FileNotFoundError, NotADirectoryError):
        return originals.image_file(row)
