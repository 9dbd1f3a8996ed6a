"""The page of a pilot: what a new model changes, and the inputs on which the two models agree least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images.inputs import decode_image
from pipeline.images.outputs import Palette, decode_mask, overlay
from pipeline.quality.comparison import Comparison
from pipeline.quality.pages import Page
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.table.parts import read_part, scan
from pipeline.table.readers import parts_of

_WORST = 6


def pilot_page(
    folder: str,
    comparison: Comparison,
    *,
    old_sink: str,
    about: Mapping[str, Any],
    reasons: Sequence[str],
    palette: Palette | None,
    max_pixels: int,
) -> str:
    """Write the page into the pilot's folder, which is its sink; returns its URI.

    ``about``: model, sink and so on, for people. ``palette``: colours of the classes; None: the rows are of documents.
    """
    page = Page("A new model beside the old one")
    page.table("The pilot", [{"what": name, "value": value} for name, value in about.items()])
    page.table("Gates that it does not pass", [{"gate": reason} for reason in reasons])
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
) -> list[tuple[str, Any]]:
    old, new = (_masks(sink, worst) for sink in (old_sink, folder))
    found: list[tuple[str, Any]] = []
    for row in worst:
        key = row["uri"], row["member"]
        if key not in old or key not in new:
            continue
        name = f"{row['uri'].rpartition('/')[2]}{'' if row['member'] is None else ' ' + row['member']}"
        try:
            masks = [(side, decode_mask(rows[key]["mask"]["bytes"])) for side, rows in (("old", old), ("new", new))]
            data, _ = fetch(_entry(new[key]), _ANY, FetchConfig())
            image = None if data[0] is None else decode_image(data[0], max_pixels)
        except (InputError, OSError, ValueError):
            continue
        if image is None:
            continue
        found.append((f"{name}: input (agreement {row['agreement']:.2f})", image))
        found += [(f"{name}: {side}", overlay(image, mask, palette)) for side, mask in masks]
    return found
