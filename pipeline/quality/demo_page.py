"""The page of the demonstration: images, masks and truth; reconstructions; documents with their boundaries."""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.images import inputs as image_inputs
from pipeline.images.outputs import decode_mask, overlay
from pipeline.images.task import ImageSegmentation
from pipeline.quality.pages import Card, Page
from pipeline.quality.pictures import beside
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.table.parts import read_part
from pipeline.table.readers import parts_of
from pipeline.text.outputs import render_html
from pipeline.text.reading import read_document


def rows_of(sink: str) -> list[dict[str, Any]]:
    """The rows of a table, sorted by key."""
    table = storage.join(sink, "table")
    rows = [row for part in parts_of(sink) for row in read_part(table, part).to_pylist()]
    return sorted(rows, key=lambda row: (row["uri"], row["member"] or ""))


def short(row: dict[str, Any]) -> dict[str, Any]:
    """The small columns of a row, for printing."""
    name = row["uri"].rsplit("/", 1)[-1] + (f" #{row['member']}" if row["member"] else "")
    if row["error"] is not None:
        return {"input": name, "result": f"failed: {row['error']['code']}", "confidence": None}
    if "mask" in row:
        result = f"{row['width']} x {row['height']} mask, {len(row['mask']['bytes'])} bytes of PNG"
    else:
        result = f"{row['num_paragraphs']} paragraphs in {row['num_chars']} characters"
    novelty = {} if row["novelty"] is None else {"novelty": row["novelty"]}
    return {"input": name, "result": result, "confidence": row["confidence"], **novelty}


def add_masks(page: Page, task: ImageSegmentation, rows: list[dict[str, Any]], truths: dict[str, str]) -> None:
    """Add images, each with its mask as an overlay, and with the truth if ``truths`` maps its URI to a label's URI."""
    cards: list[Card] = []
    for row in [row for row in rows if row["error"] is None][:6]:
        image = image_inputs.decode_image(storage.read(row["uri"]), task.max_pixels)
        name = row["uri"].rsplit("/", 1)[-1]
        masked = overlay(image, decode_mask(row["mask"]["bytes"]), task.palette)
        cards.append(beside(name, [("image", image), ("mask", masked)]))
        if row["uri"] in truths:
            label = image_inputs.decode_label(storage.read(truths[row["uri"]]), *image.shape[:2])
            pair = [("truth", overlay(image, label, task.palette)), ("mask", masked)]
            cards.append(beside(f"{name}, the truth", pair))
    page.legend("Masks", dict(zip(task.classes, task.palette, strict=True)))
    page.cards("Masks", cards)


def add_documents(page: Page, source: str, kind: InputKind, rows: list[dict[str, Any]], count: int = 2) -> None:
    """Add ``count`` documents with the boundaries that were found."""
    by_key = {(row["uri"], row["member"]): row for row in rows if row["error"] is None}
    for chunk in entries([source], kind):
        data, _ = fetch(chunk, kind, FetchConfig())
        for listed, content in zip(chunk.to_pylist(), data, strict=True):
            row = by_key.get((listed["uri"], listed["member"]))
            if row is None or content is None or count == 0:
                continue
            text = read_document(content, listed["format"]).text
            spans = [(span["start"], span["end"], span["score"]) for span in row["paragraphs"]]
            page.markup(f"Paragraphs of {short(row)['input']}", render_html(text, spans))
            count -= 1
