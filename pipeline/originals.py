"""Reading the inputs of rows again: images to draw on, and documents whose paragraphs are wanted as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, RequestError
from pipeline.images.inputs import decode_image
from pipeline.images.letterbox import IMAGES
from pipeline.rows import RECORD
from pipeline.source.containers import ENTRIES
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text.formats.document import PLAIN
from pipeline.text.formats.readers import WITH_OCR
from pipeline.text.reading import read_document
from pipeline.text.task import TextSegmentation

_GONE = InputError("not_found", "the input is not there any more")


class Originals:
    """Reads inputs of a table's rows again. It remembers the listing of the last container."""

    def __init__(self, config: FetchConfig | None = None) -> None:
        self._config = config or FetchConfig()
        self._listed: tuple[str, pa.Table | InputError] = ("", _GONE)

    def image(self, row: Mapping[str, Any]) -> np.ndarray:
        """The image of a row, (h, w, 3) uint8. `InputError` if it is gone or is not the one that was segmented."""
        image = decode_image(self.image_file(row), row["height"] * row["width"])
        if image.shape[:2] != (row["height"], row["width"]):
            raise InputError("changed", "the image is not the one that was segmented")
        return image

    def image_file(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a row's image. `InputError` if it is gone, or if its tag is not the row's."""
        entry = self._entry(row, IMAGES)
        if row["etag"] and entry["etag"] != row["etag"]:
            raise InputError("changed", "the image is not the one that was segmented")
        data, errors = fetch(pa.Table.from_pylist([entry], ENTRIES), IMAGES, self._config)
        if data[0] is None:
            raise _raised(errors[0].as_py())
        return data[0]

    def texts(self, rows: Sequence[Mapping[str, Any]]) -> list[str | InputError]:
        """The texts of documents, or why one cannot be had: it is gone, or its text is not the one of the row. A text
        that is in the row is not read again."""
        kind, listed = TextSegmentation.inputs, []
        found: list[str | InputError | None] = []
        for row in rows:
            kept = row.get("text")
            if kept is not None and _is_of(kept, row):
                found.append(kept)
                continue
            try:
                listed.append(self._entry(row, kind))
                found.append(None)
            except InputError as reason:
                found.append(reason)
        data, errors = fetch(pa.Table.from_pylist(listed, ENTRIES), kind, self._config) if listed else ([], [])
        read = iter(zip(listed, data, errors, strict=True))
        return [_text(row, *next(read)) if known is None else known for row, known in zip(rows, found, strict=True)]

    def _entry(self, row: Mapping[str, Any], kind: Any) -> dict[str, Any]:
        """The input of a row as it is listed now."""
        if self._listed[0] != row["uri"]:
            try:
                tables = list(entries([row["uri"]], kind, self._config))
                listing = pa.concat_tables(tables) if tables else ENTRIES.empty_table()
            except RequestError:
                listing = _GONE
            self._listed = (row["uri"], listing)
        listing = self._listed[1]
        if isinstance(listing, InputError):
            raise listing
        here = listing.filter(pc.field("uri") == row["uri"])
        whole = row["member"] is None
        here = here.filter(pc.field("member").is_null() if whole else pc.field("member") == row["member"])
        if not here.num_rows:
            raise _GONE
        return here.slice(0, 1).to_pylist()[0]


def paragraphs(row: Mapping[str, Any], text: str) -> list[str]:
    """The paragraphs of a row, from its document's text."""
    return [text[span["start"] : span["end"]] for span in row["paragraphs"]]


def _text(row: Mapping[str, Any], entry: Mapping[str, Any], data: bytes | None, error: Any) -> str | InputError:
    if data is None:
        return _raised(error.as_py())
    try:
        # A row without a format is one of an early version, which read every file as plain text.
        is_early = row.get("format") is None and entry["format"] != RECORD
        text = read_document(data, PLAIN if is_early else entry["format"], ocr=row.get("format") == WITH_OCR).text
    except InputError as reason:
        return reason
    if not _is_of(text, row):
        return InputError("changed", "the document is not the one that was segmented")
    return text


def _is_of(text: str, row: Mapping[str, Any]) -> bool:
    return hashlib.sha256(text.encode()).hexdigest() == row["text_sha256"]


def _raised(error: Mapping[str, str]) -> InputError:
    return InputError(error["code"], error["message"])
