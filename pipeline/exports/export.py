"""Exports the current rows of a sink in one of the forms, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.exports.forms import DOCUMENTS, FORMS, IMAGES, Plan
from pipeline.exports.names import Names, common_folder
from pipeline.images.letterbox import IMAGES as IMAGE_INPUTS
from pipeline.originals import Originals
from pipeline.rows import FailedInput
from pipeline.runs.earlier import newest_config
from pipeline.sinks import class_colors, class_names, values_of
from pipeline.source.fetch import FetchConfig
from pipeline.table.log import columns_of
from pipeline.table.queries import CurrentRows
from pipeline.table.readers import open_delta
from pipeline.text.task import TextSegmentation

_ROWS = 64  # that are Python objects at once
_TOGETHER_BYTES = 64 << 20  # of documents that are read at once


@dataclass(kw_only=True)
class Exported:
    exported: int = 0
    """Rows that were exported."""
    left_out: int = 0
    """Rows of inputs that failed when they were segmented."""
    unreadable: int = 0
    """Documents that are gone or changed."""


def export(
    sink: str,
    form: str,
    out: str,
    *,
    where: str | None = None,
    limit: int | None = None,
    background: Sequence[str] = (),
    as_polygons: bool = False,
    tell: Callable[[FailedInput], None],
) -> Exported:
    """Export the current rows of a sink for which an SQL condition holds, at most ``limit`` of them.

    ``tell`` gets each input that could not be read again. `RequestError`, before anything is written, if the folder is
    not empty, the table has no such form, or the classes of its rows are not known.
    """
    folder = new_folder(out)
    columns = columns_of(open_delta(sink)).names
    if "label" in columns:
        rule = "export writes masks and paragraphs, and this is a table of labels; read it with Polars or DuckDB"
        raise RequestError(f"sink {sink!r}: {rule}, as docs/table.md shows")
    kind = IMAGES if "mask" in columns else DOCUMENTS
    if kind not in FORMS[form].kinds:
        fitting = ", ".join(name for name, item in FORMS.items() if kind in item.kinds)
        raise RequestError(f"to must be one of {fitting} for a table of {kind}, got {form!r}")
    current = CurrentRows(sink, where)
    common, models = survey(current)
    classes, palette = shared_classes(sink, models) if kind == IMAGES else ((), ())
    hidden = background_ids(background, classes)
    suffixes = IMAGE_INPUTS.suffixes if kind == IMAGES else TextSegmentation.inputs.suffixes
    found, opened = Exported(), None
    for row in _done_rows(sink, current, kind, limit, found, tell):
        if opened is None:
            folder.mkdir(parents=True, exist_ok=True)
            plan = Plan(
                out=folder,
                names=Names(common, suffixes),
                columns=current.schema,
                classes=classes,
                palette=palette,
                background=hidden,
                as_polygons=as_polygons,
            )
            opened = FORMS[form](plan)
        opened.add(row)
        found.exported += 1
    if opened is not None:
        opened.close()
    return found


def new_folder(out: str) -> Path:
    """The folder that ``out`` names. `RequestError` unless it is one of this machine, and new or empty."""
    if not storage.is_local(out):
        raise RequestError(f"out must be a folder of this machine, got {out!r}")
    folder = Path(storage.canonical(out))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"out must be a new or empty folder, got {out!r}")
    return folder


def survey(current: CurrentRows) -> tuple[str, list[str]]:
    """The folder that all inputs are in, and the models of the rows that are done."""
    common, models = None, set()
    for rows in current.pieces(["uri", "model", "error"]):
        done = rows.filter(rows["error"].is_null())
        common = common_folder(done["uri"].to_pylist(), common)
        models.update(done["model"].unique().to_pylist())
    return common or "", sorted(models, key=str)


def shared_classes(sink: str, models: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """The classes and the palette of the models. `RequestError` if they differ."""
    found = []
    for model in models:
        task = values_of(sink, model)
        found.append((class_names(task, sink), class_colors(task, sink)))
    if any(classes != found[0][0] for classes, _ in found):
        raise RequestError(
            f"where must choose rows of one model, since the classes of {models[0]} and others differ: "
            f"\"model = '{models[0]}'\""
        )
    return found[0] if found else ((), ())


def background_ids(names: Sequence[str], classes: Sequence[str]) -> frozenset[int]:
    """The ids of classes that get no annotations. `RequestError` if one of them is no class."""
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise RequestError(f"background must be names of classes ({', '.join(classes)}), got {unknown[0]!r}")
    return frozenset(classes.index(name) for name in names)


def _done_rows(
    sink: str,
    current: CurrentRows,
    kind: str,
    limit: int | None,
    found: Exported,
    tell: Callable[[FailedInput], None],
) -> Iterator[dict[str, Any]]:
    """The rows that are done; those of documents with their ``text``."""
    given = newest_config(sink).get("stream", {}).get("fetch", {}).get("max_bytes")
    originals = Originals(FetchConfig(max_bytes=given) if given else FetchConfig())
    for rows in current.pieces():
        done = rows.filter(rows["error"].is_null())
        found.left_out += rows.num_rows - done.num_rows
        for start in range(0, done.num_rows, _ROWS):
            for chosen in _together(done.slice(start, _ROWS).to_pylist()):
                if kind == DOCUMENTS:
                    chosen = _with_texts(chosen, originals, found, tell)
                for row in chosen:
                    if limit is not None and found.exported >= limit:
                        return
                    yield row


def _together(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in lists whose inputs have at most `_TOGETHER_BYTES`, or are a single one."""
    waiting: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if waiting and size + (row["size"] or 0) > _TOGETHER_BYTES:
            yield waiting
            waiting, size = [], 0
        waiting.append(row)
        size += row["size"] or 0
    if waiting:
        yield waiting


def _with_texts(
    rows: list[dict[str, Any]], originals: Originals, found: Exported, tell: Callable[[FailedInput], None]
) -> Iterator[dict[str, Any]]:
    for row, text in zip(rows, originals.texts(rows), strict=True):
        if isinstance(text, InputError):
            found.unreadable += 1
            tell(FailedInput(uri=row["uri"], member=row["member"], label=None, code=text.code, message=text.message))
        else:
            yield row | {"text": text}
