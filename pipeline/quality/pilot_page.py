"""The page of a pilot: what a new model changes, and the inputs on which the two models agree least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images.inputs import decode_image
from pipeline.images.outputs import Palette, decode_mask, overlay
from pipeline.images.task import ImageSegmentation
from pipeline.quality.comparison import Comparison, rows_of
from pipeline.quality.pages import Page
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage.columnar import read_parquet
from pipeline.table.readers import current_rows

_WORST = 6


def pilot_page(
    folder: str,
    comparison: Comparison,
    *,
    old_sink: str,
    about: Mapping[str, Any],
    palette: Palette | None,
    max_pixels: int,
) -> str:
    """Write the page into the pilot's folder, which is its sink; returns its URI.

    ``about``: model, sink and so on, for people. ``palette``: colours of the classes; None: the rows are of documents.
    """
    page = Page("A new model beside the old one")
    page.table("The pilot", [{"what": name, "value": value} for name, value in about.items()])
    shifts = comparison.found.get("area_shifts") or {}
    figures = {name: value for name, value in comparison.found.items() if name != "area_shifts"}
    page.table("Figures over all pairs", [{"what": name, "value": value} for name, value in figures.items()])
    page.table("Change of each class's share of the pixels", [{"class": key, "change": v} for key, v in shifts.items()])
    worst = comparison.worst(_WORST)
    page.table("Inputs on which the two agree least", worst)
    if palette is not None:
        page.pictures("Old and new, side by side", list(_pictures(folder, old_sink, worst, palette, max_pixels)))
    return page.write(storage.join(folder, "report.html"))


def _pictures(
    folder: str, old_sink: str, worst: Sequence[Mapping[str, Any]], palette: Palette, max_pixels: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The input of each pair, and both masks over it. Inputs that cannot be read again are left out."""
    chosen = pa.table({name: pa.array([row[name] for row in worst], pa.string()) for name in INPUT_KEY})
    among = KeySet([keys(chosen, INPUT_KEY)])
    old, new = (_masks(sink, among) for sink in (old_sink, folder))
    inputs = _inputs(folder, among)
    for row in worst:
        key = row["uri"], row["member"]
        if key not in old or key not in new or key not in inputs:
            continue
        name = row["uri"].rpartition("/")[2] if row["member"] is None else f"{row['uri']} {row['member']}"
        try:
            image = decode_image(inputs[key], max_pixels)
            masks = {"old": decode_mask(old[key]), "new": decode_mask(new[key])}
        except (InputError, OSError, ValueError):
            continue
        yield f"{name}: input (agreement {row['agreement']:.2f})", image
        for side, mask in masks.items():
            yield f"{name}: {side}", overlay(image, mask, palette)


def _masks(sink: str, among: KeySet) -> dict[tuple[str, str | None], bytes]:
    rows = current_rows(rows_of(sink, among)).to_pylist()
    return {(row["uri"], row["member"]): row["mask"]["bytes"] for row in rows if row.get("mask")}


def _inputs(folder: str, among: KeySet) -> dict[tuple[str, str | None], bytes]:
    """The bytes of inputs, by the listing of the pilot's run."""
    found: dict[tuple[str, str | None], bytes] = {}
    runs = storage.join(folder, "runs")
    for run in storage.names(runs):
        manifest = storage.join(runs, run, "manifest")
        for shard in storage.names(manifest):
            rows = read_parquet(storage.read(storage.join(manifest, shard)))
            rows = rows.filter(pa.array(among.contains(keys(rows, INPUT_KEY))))
            data, _ = fetch(rows, ImageSegmentation.inputs, FetchConfig())
            names = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), strict=True)
            found |= {name: content for name, content in zip(names, data, strict=True) if content is not None}
    return found
