"""Labelled inputs: splits of an image folder, records that contain their labels, and held-out subsets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.rows import OBJECT, InputKind
from pipeline.source.entries import ENTRIES, entries
from pipeline.source.keys import INPUT_KEY, GrowingKeySet, digests, keys
from pipeline.source.manifests import is_of_results
from pipeline.source.passed import PassedOver
from pipeline.source.texts import lines_of, read_text

#: The label of an input is a file with a tag and a time of its own; or a word, ``label``; or in the input itself. What
#: does not apply is null.
_LABEL = pa.schema(
    [
        ("label_uri", pa.string()),
        ("label_etag", pa.string()),
        ("label_mtime", ENTRIES.field("mtime").type),
        ("label", pa.string()),
    ]
)
LABELLED = pa.schema([("ordinal", pa.int64()), *ENTRIES, *_LABEL])

_NAME = r'(?:"([^"]+)"|([^\s"]\S*))'
_ONE_NAME = re.compile(rf"\s*{_NAME}\s*")
_LINE = re.compile(rf"\s*{_NAME}\s+{_NAME}\s*")


def split_files(folder: str, name: str) -> pa.Table:
    """The inputs that ``NAME.txt`` in a labelled image folder lists, in its order.

    Each line has the names of an image and of its label below the folder. A tab separates them, or else white space;
    a name that has spaces can stand in double quotes. Empty lines, and lines that begin with ``#``, are left out.
    """
    where = storage.join(folder, f"{name}.txt")
    rows, numbers = [], []
    for number, line in _split_lines(folder, name):
        names = _names(line)
        if len(names) != 2:
            rule = "must be 'image label'; a tab may separate them, and quotes enclose a name with spaces"
            raise RequestError(f"{where}, line {number}: {rule}; got {line!r}")
        image, label = (storage.join(folder, item) for item in names)
        rows.append({"uri": image, "etag": "", "size": 0, "format": OBJECT, "label_uri": label})
        numbers.append(number)
    if not rows:
        raise RequestError(f"data {folder!r}: {name}.txt lists no images")
    tagged = _with_tags(rows)
    for number, row in zip(numbers, tagged, strict=True):
        if "\\" in row["uri"] and not row["etag"]:
            rule = "no such file; names of folders and files are separated by /, not by a backslash"
            raise RequestError(f"{where}, line {number}: {row['uri']}: {rule}")
    return _numbered(pa.Table.from_pylist(tagged, schema=LABELLED))


def training_inputs(uri: str, kind: InputKind) -> tuple[pa.Table, str]:
    """The inputs to train on, and the split's name: those in ``train.txt`` of a labelled folder, or all of a source."""
    if storage.exists(storage.join(uri, "train.txt")):
        return split_files(uri, "train"), "train"
    return all_inputs(uri, kind), "all"


def all_inputs(uri: str, kind: InputKind) -> pa.Table:
    """All inputs of a source; they have no labels, or the labels are inside the records."""
    if kind.record and is_of_results(uri):
        rule = "a table of results has no texts, and so is no truth; write a file that has their text beside paragraphs"
        raise RequestError(f"data {uri!r}: {rule}")
    passed = PassedOver()
    found = list(entries([uri], kind, passed=passed))
    if not found:
        rest = f"; {passed}" if passed.by_ending() else ""
        raise RequestError(f"data {uri!r}: no input with one of the suffixes {', '.join(kind.suffixes)}{rest}")
    table = pa.concat_tables(found)
    # Object stores list in no fixed order, but the result of a training depends on the order of its samples.
    table = table.take(np.argsort(table["uri"].to_numpy(), kind="stable"))
    table = table.filter(pa.array(GrowingKeySet().new(keys(table, INPUT_KEY))))
    for item in _LABEL:
        table = table.append_column(item.name, pa.nulls(table.num_rows, item.type))
    return _numbered(table)


def class_inputs(uri: str, kind: InputKind, split: str | None = None) -> pa.Table:
    """The inputs of a folder that has a folder for each class; column ``label`` is the name of the class.

    With a ``split``, those that ``SPLIT.txt`` lists, in its order: a line has the name of an image below the folder,
    or that and the name of its class, where the image does not lie in the folder of its class. Quotes, tabs and
    comments are as for `split_files`.
    """
    if split is None:
        found = all_inputs(uri, kind)
        labels = [_class_of(name, uri) for name in found["uri"].to_pylist()]
        return _numbered(found.set_column(found.column_names.index("label"), "label", pa.array(labels, pa.string())))
    where = storage.join(uri, f"{split}.txt")
    rows = []
    for number, line in _split_lines(uri, split):
        names = _line_names(line)
        if len(names) not in (1, 2):
            rule = "must be 'image' or 'image class'; a tab may separate them, and quotes enclose a name with spaces"
            raise RequestError(f"{where}, line {number}: {rule}; got {line!r}")
        image = storage.join(uri, names[0])
        label = names[1] if len(names) == 2 else _class_of(image, uri)
        rows.append({"uri": image, "etag": "", "size": 0, "format": OBJECT, "label": label})
    if not rows:
        raise RequestError(f"data {uri!r}: {split}.txt lists no images")
    return _numbered(pa.Table.from_pylist(_with_tags(rows), schema=LABELLED))


def _class_of(image: str, folder: str) -> str:
    """The name of the folder that an image lies in, below ``folder``."""
    above, _, _ = image.rpartition("/")
    name = above.rpartition("/")[2]
    if not name or storage.canonical(above) == storage.canonical(folder):
        raise RequestError(f"data {folder!r}: an image must lie in a folder whose name is its class, got {image!r}")
    return name


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Listings one after the other, as one."""
    return _numbered(pa.concat_tables(parts))


def held_out(inputs: pa.Table, fraction: float) -> tuple[pa.Table, pa.Table]:
    """Split inputs into two tables: the rest, and about ``fraction`` of them (at least one), chosen by hashed names.

    Both have at least one input. `RequestError` if there are fewer than two.
    """
    chosen = is_held_out(inputs, fraction)
    return _numbered(inputs.filter(pa.array(~chosen))), _numbered(inputs.filter(pa.array(chosen)))


def is_held_out(inputs: pa.Table, fraction: float) -> np.ndarray:
    """Which inputs `held_out` holds out, (n,) bool."""
    if inputs.num_rows < 2:
        rule = "at least 2 inputs are needed, since a part of them is held out for validation"
        raise RequestError(f"{rule}; got only {inputs['uri'][0].as_py()!r}")
    names = digests(inputs, ("uri", "member"))
    rank = np.argsort([hashlib.sha256(row.tobytes()).digest() for row in names], kind="stable")
    chosen = np.zeros(inputs.num_rows, bool)
    chosen[rank[: min(max(1, round(fraction * inputs.num_rows)), inputs.num_rows - 1)]] = True
    return chosen


def _split_lines(folder: str, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a list that name something, with their numbers. `RequestError` if there is no such list."""
    try:
        lines = lines_of(read_text(storage.join(folder, f"{name}.txt")))
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"data {folder!r}: split {name!r} needs the file {name}.txt there") from reason
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _line_names(line: str) -> list[str]:
    """The one name or the two names on a line of a list of classes."""
    found = _ONE_NAME.fullmatch(line)
    if found is not None and "\t" not in line:
        return [found[1] or found[2]]
    return _names(line)


def _names(line: str) -> list[str]:
    """The names on a line of a list."""
    if "\t" in line:
        parts = [part.strip() for part in line.split("\t") if part.strip()]
        return [part[1:-1] if len(part) > 1 and part[0] == part[-1] == '"' else part for part in parts]
    found = _LINE.fullmatch(line)
    return [part for part in found.groups() if part is not None] if found else []


def _with_tags(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the tags of their images and labels; a tag is empty if the file cannot be found."""

    def tagged(row: dict[str, Any]) -> dict[str, Any]:
        image = _found(row["uri"])
        tags = {"etag": image.etag, "size": image.size}
        if "label_uri" in row:
            label = _found(row["label_uri"])
            tags |= {"label_etag": label.etag, "label_mtime": label.mtime}
        return row | tags

    with ThreadPoolExecutor(16, "stat") as pool:
        return list(pool.map(tagged, rows))


def _found(uri: str) -> storage.Object:
    try:
        return storage.stat(uri)
    except (OSError, InputError):
        return storage.Object(uri, 0, "")  # fetching it will report the error


def _numbered(table: pa.Table) -> pa.Table:
    ordinals = pa.array(np.arange(table.num_rows))
    rest = [name for name in LABELLED.names if name != "ordinal"]
    return table.select(rest).add_column(0, "ordinal", ordinals).cast(LABELLED)
