"""A sink as people look at it in a notebook: rows, masks, overlays, paragraphs.

sink = open_sink("masks")
row = sink.rows("error is null").to_pylist()[0]
sink.overlay(row)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.images.outputs import decode_mask, overlay
from pipeline.originals import Originals, paragraphs
from pipeline.runs.earlier import newest_config
from pipeline.table.queries import CurrentRows
from pipeline.table.readers import description, open_delta


class Sink:
    """A sink for reading. Rows are dicts, as ``rows().to_pylist()`` gives them."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.canonical(uri)

    def rows(self, where: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The current row of each input, if an SQL condition holds for it. ``columns``: None: all.

        `RequestError` if ``where`` is no condition, or a column is not there.
        """
        current = CurrentRows(self.uri, where)
        found = list(current.pieces(columns))
        if found:
            return pa.concat_tables(found)
        empty = current.schema.empty_table()
        return empty if columns is None else empty.select(list(columns))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the newest run's classes, by id. `RequestError` if it has none, as with documents."""
        return class_names(self._task, self.uri)

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colour of each class: red, green, blue, 0 to 255."""
        return class_colors(self._task, self.uri)

    def mask(self, row: Mapping[str, Any]) -> np.ndarray:
        """The class ids of a row's mask, (h, w) uint8, or uint16 with more than 256 classes."""
        _check_done(row)
        return decode_mask(row["mask"]["bytes"])

    def overlay(self, row: Mapping[str, Any], opacity: float = 0.5) -> np.ndarray:
        """The row's image under its mask, (h, w, 3) uint8. The image is read again.

        `InputError` if it is gone, or is not the one that was segmented.
        """
        mask = self.mask(row)
        try:
            return overlay(self._originals.image(row), mask, self.palette, opacity)
        except InputError as reason:
            raise _named(row, reason) from reason

    def paragraphs(self, row: Mapping[str, Any]) -> list[str]:
        """The paragraphs of a row's document. It is read again.

        `InputError` if it is gone, or if its text is not the one that was segmented.
        """
        _check_done(row)
        text = self._originals.texts([row])[0]
        if isinstance(text, InputError):
            raise _named(row, text) from text
        return paragraphs(row, text)

    @cached_property
    def _task(self) -> Mapping[str, Any]:
        return values_of(self.uri)

    @cached_property
    def _originals(self) -> Originals:
        return Originals()


def open_sink(uri: str) -> Sink:
    """Open a sink for reading. `RequestError` if it has no table."""
    open_delta(uri)
    return Sink(uri)


def values_of(sink: str, model: str | None = None) -> Mapping[str, Any]:
    """What the values of a model's rows mean, with ``classes`` and ``palette`` for masks: as the settings of its newest
    run have it, or else as its newest file says. None: of any model. Empty if neither is known."""
    return newest_config(sink, model).get("task") or description(sink, model)


def class_names(task: Mapping[str, Any], sink: str) -> tuple[str, ...]:
    """The classes in what `values_of` gives. `RequestError` if there are none."""
    if "classes" not in task:
        raise RequestError(f"sink {sink!r}: neither a run nor a file there says which classes its masks have")
    return tuple(task["classes"])


def class_colors(task: Mapping[str, Any], sink: str) -> tuple[tuple[int, int, int], ...]:
    """The palette in what `values_of` gives. `RequestError` if there is none."""
    class_names(task, sink)
    return tuple((red, green, blue) for red, green, blue in task["palette"])


def _check_done(row: Mapping[str, Any]) -> None:
    if row["error"] is not None:
        raise RequestError(f"the row of {row['uri']} is one of a failed input: {row['error']['code']}")


def _named(row: Mapping[str, Any], reason: InputError) -> InputError:
    name = row["uri"] if row["member"] is None else f"{row['uri']} ({row['member']})"
    return InputError(reason.code, f"{name}: {reason.message}")
