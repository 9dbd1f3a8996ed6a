"""Labels of images: what classes.json may say, and label files to class ids, for training and evaluation alike."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.images.inputs import NO_CLASS, decode_colors, decode_label, file_palette
from pipeline.source.texts import read_text

Color = tuple[int, int, int]

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """How label files say which class a pixel has."""

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int | None = None
    labels: Literal["ids", "rgb"] = "ids"
    """ids: the stored value is the class id. rgb: the colour is the class's in the palette."""
    ignore_color: Color | None = None
    ids: tuple[int, ...] | None = None
    """The id that `read` gives to each class; None: its index."""

    def read(self, data: bytes, height: int, width: int) -> np.ndarray:
        """The class ids of a label file, (height, width) uint8, `NO_CLASS` for pixels without a class.

        Raises `InputError` ``bad_label``: the file is no PNG of this size and kind, has a value or a colour that is no
        class, or has a palette that contradicts the classes' colours.
        """
        found = self._from_colors(data, height, width) if self.labels == "rgb" else self._from_ids(data, height, width)
        if self.ids is None:
            return found
        table = np.full(NO_CLASS + 1, NO_CLASS, np.uint8)
        table[: len(self.ids)] = self.ids
        return table[found]

    def check(self) -> None:
        """`RequestError` if there are more classes than label files can name."""
        if len(self.classes) > NO_CLASS:
            raise RequestError(f"labels of 8 bits name {NO_CLASS} classes at most, there are {len(self.classes)}")

    def for_classes(self, classes: Sequence[str], package: str) -> LabelRules:
        """The same rules, but `read` gives the ids of ``classes``, which have the same names in any order.

        `RequestError` that names the difference if they have other names. ``package``: whose classes they are.
        """
        if set(classes) != set(self.classes):
            missing = [name for name in self.classes if name not in classes]
            extra = [name for name in classes if name not in self.classes]
            said = [f"{', '.join(map(repr, missing))} only in classes.json"] if missing else []
            said += [f"{', '.join(map(repr, extra))} only in the package"] if extra else []
            raise RequestError(f"classes.json must name the classes of the package {package}: {'; '.join(said)}")
        return dataclasses.replace(self, ids=tuple(classes.index(name) for name in self.classes))

    def _from_ids(self, data: bytes, height: int, width: int) -> np.ndarray:
        label = decode_label(data, height, width)
        count = len(self.classes)
        values = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
        unknown = [int(value) for value in values if value >= count and value != self.ignore_index]
        if unknown:
            known, hint = f"ids are 0 to {count - 1}", ""
            if self.ignore_index is not None:
                known += f", or {self.ignore_index} for no class"
            if unknown == [255] and self.ignore_index is None:
                hint = "; if 255 marks pixels without a class, set ignore_index to 255 in classes.json; if it marks a "
                hint += "class, convert_labels --form mask writes its id instead"
            raise InputError("bad_label", f"the label has the value {unknown[0]}, which is no class: {known}{hint}")
        self._check_palette(file_palette(data), [int(value) for value in values if value < count])
        return np.where(label < count, label, np.uint8(NO_CLASS))

    def _check_palette(self, colors: Sequence[Color] | None, present: Sequence[int]) -> None:
        """`InputError` if the file's own palette says that its indices are other classes.

        That is so if every index in use has the colour of some class and one has the colour of another class; or if all
        colours are grays that are class ids themselves and one is not its index. Image editors write such files when
        they put the palette in another order. Colours that are not those of the classes say nothing.
        """
        if colors is None or all(colors[index : index + 1] == [tuple(self.palette[index])] for index in present):
            return
        if any(index >= len(colors) for index in present):
            return
        where = {color: index for index, color in reversed(list(enumerate(self.palette)))}
        grays = {(value, value, value): value for value in range(len(self.classes))}
        for known, whole in ((where, len(colors) <= len(self.classes)), (grays, True)):
            if not all(colors[index] in known for index in present):
                continue
            same = self.palette if known is where else [(value, value, value) for value in range(len(self.classes))]
            wrong = [index for index in present if colors[index] != same[index]]
            if wrong and (whole or len(wrong) > 1):
                index, other = wrong[0], known[colors[wrong[0]]]
                raise InputError(
                    "bad_label",
                    f"the label's own palette contradicts the classes: index {index} is {self.classes[index]!r}, but "
                    f"its colour in the file is that of {other}, {self.classes[other]!r}",
                )

    def _from_colors(self, data: bytes, height: int, width: int) -> np.ndarray:
        pixels = decode_colors(data, height, width).astype(np.int64)
        codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
        known = {_code(color): index for index, color in enumerate(self.palette)}
        if self.ignore_color is not None:
            known[_code(self.ignore_color)] = NO_CLASS
        present, inverse = np.unique(codes, return_inverse=True)
        for code in present.tolist():
            if code not in known:
                raise InputError("bad_label", f"the label has the colour #{code:06x}, which is no class")
        ids = np.array([known[code] for code in present.tolist()], np.uint8)
        return ids[inverse].reshape(height, width)


def read_classes(folder: str) -> dict[str, Any]:
    """`described_classes` of the file classes.json in a labelled folder. `RequestError` if there is none."""
    try:
        return read_classes_file(storage.join(folder, "classes.json"))
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"images {folder!r}: a labelled folder needs classes.json") from reason


def read_classes_file(where: str) -> dict[str, Any]:
    """`described_classes` of a file like classes.json. `FileNotFoundError` if there is none, `RequestError` if it is
    another."""
    try:
        return described_classes(json.loads(read_text(where)))
    except RequestError as reason:
        text = str(reason)
        raise RequestError(
            where + text.removeprefix("classes.json") if text.startswith("classes.json") else text
        ) from reason
    except json.JSONDecodeError as reason:
        raise RequestError(f"{where} is not JSON, see its line {reason.lineno}") from reason
    except RecursionError as reason:
        raise RequestError(f"{where} is not JSON that can be read: it is nested too deep") from reason


def described_classes(content: Any) -> dict[str, Any]:
    """The settings of `ImageSegmentation` that a parsed classes.json gives: the fields of `LabelRules` without ``ids``.

    - ``classes``: a list of names; or an object, id to name or name to id, with the ids 0, 1, 2, ...
    - ``palette``: a colour for each class: a list in the order of the ids, an object by name or by id, or a flat list
      of numbers. A colour is [red, green, blue] with 0 to 255, or "#rrggbb".
    - ``ignore_index``: a whole number, or null. ``ignore_color``: a colour, or null.
    - ``labels``: "ids" or "rgb".

    `RequestError` that names the member, the rule and the value for anything else.
    """
    if not isinstance(content, Mapping) or not {"classes", "palette"} <= set(content):
        raise RequestError("classes.json must be an object with classes and palette")
    classes = _names(content["classes"])
    given: dict[str, Any] = {"classes": classes, "palette": _palette(content["palette"], classes)}
    ignored = content.get("ignore_index")
    if ignored is not None and type(ignored) is not int:
        raise _wrong("ignore_index", "a whole number or null", ignored)
    if type(ignored) is int and 0 <= ignored < len(classes):
        raise _wrong("ignore_index", f"not the id of a class (0 to {len(classes) - 1})", ignored)
    given["ignore_index"] = ignored
    if content.get("labels") is not None:
        given["labels"] = content["labels"]
        if content["labels"] not in ("ids", "rgb"):
            raise _wrong("labels", "'ids' or 'rgb'", content["labels"])
    if given.get("labels") == "rgb" and len(set(given["palette"])) < len(classes):
        raise _wrong("palette", "a colour of its own for each class where labels are 'rgb'", content["palette"])
    if content.get("ignore_color") is not None:
        color = _color(content["ignore_color"], "ignore_color")
        if given.get("labels") == "rgb":  # labels of ids do not need it
            if color in given["palette"]:
                raise _wrong("ignore_color", "no class's colour where labels are 'rgb'", content["ignore_color"])
            given["ignore_color"] = color
    return given


def _wrong(member: str, rule: str, value: Any) -> RequestError:
    shown = repr(value)
    return RequestError(
        f"classes.json: {member} must be {rule}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
    )


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        value = _by_id(value)
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise _wrong("classes", "a list of names, or an object of ids 0, 1, 2, ... and names", value)
    if not 2 <= len(value) <= 65_536 or len(set(value)) < len(value):
        raise _wrong("classes", "2 to 65536 different names", value)
    return tuple(value)


def _by_id(value: Mapping[str, Any]) -> Any:
    """The names of an object in the order of their ids, or the object if it is not one of names and ids."""
    pairs = [(_id(key), name) for key, name in value.items()]
    if any(number is None for number, _ in pairs):
        pairs = [(number if type(number) is int else None, name) for name, number in value.items()]
    numbers = [number for number, _ in pairs if number is not None]
    if sorted(numbers) != list(range(len(pairs))):
        return value
    return [name for _, name in sorted(pairs, key=lambda pair: pair[0] or 0)]


def _id(key: str) -> int | None:
    return int(key) if re.fullmatch(r"\d{1,5}", key) else None


def _palette(value: Any, classes: tuple[str, ...]) -> tuple[Color, ...]:
    if isinstance(value, Mapping):
        names = classes if set(value) == set(classes) else tuple(str(index) for index in range(len(classes)))
        if set(value) != set(names):
            raise _wrong("palette", "a colour for each class, by name or by id", value)
        value = [value[name] for name in names]
    if isinstance(value, list) and value and all(type(number) is int for number in value):
        if len(value) != 3 * len(classes):
            raise _wrong("palette", f"3 numbers for each of the {len(classes)} classes", value)
        value = [value[start : start + 3] for start in range(0, len(value), 3)]
    if not isinstance(value, list) or len(value) != len(classes):
        raise _wrong("palette", f"a list of {len(classes)} colours, one for each class", value)
    return tuple(_color(color, "palette") for color in value)


def _color(value: Any, member: str) -> Color:
    if isinstance(value, str) and (found := _HEX.fullmatch(value)):
        red, green, blue = bytes.fromhex(found[1])
        return red, green, blue
    if not isinstance(value, list) or len(value) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in value):
        raise _wrong(member, "of colours [red, green, blue] with 0 to 255, or '#rrggbb'", value)
    return value[0], value[1], value[2]


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
