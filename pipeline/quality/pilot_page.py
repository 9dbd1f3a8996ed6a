"""The page of a pilot: what a new model changes, and the inputs on which the two models agree least."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images.inputs import decode_image
from pipeline.images.outputs import decode_mask, overlay
from pipeline.images.task import ImageSegmentation
from pipeline.quality.comparison import Comparison
from pipeline.quality.pages import Card, Page
from pipeline.quality.pictures import beside, coloured, contents
from pipeline.task import Task

_READING_S = 20.0
_FIGURES = (
    ("pairs", "Inputs compared"),
    ("mean_iou", "Mean IoU"),
    ("boundary_f1", "F1 of boundaries"),
    ("changed", "Share that changed"),
    ("largest_area_shift", "Largest shift of a class"),
    ("newly_failed_rate", "Failed only now"),
)


def pilot_page(folder: str, comparison: Comparison, *, run: str, task: Task, about: Mapping[str, Any]) -> str:
    """Write the page into the pilot's folder, which is its sink; returns its URI.

    ``run``: the URI of the folder of the pilot's run, which has its listing. ``about``: model, sink and so on, for
    people.
    """
    page = Page("A new model beside the old one")
    page.table("The pilot", [{"what": name, "value": value} for name, value in about.items()])
    found = comparison.found
    page.tiles("How the two agree", [(name, _number(found.get(key)), "") for key, name in _FIGURES if key in found])
    measures = [
        {"measure": name, "old": found[f"{name}_old"], "new": found[f"{name}_new"]}
        for name in ("confidence", "uncertainty", "novelty")
        if found[f"{name}_old"] is not None or found[f"{name}_new"] is not None
    ]
    page.table(
        "What they are like", [*measures, {"measure": "failed", "old": found["failed_old"], "new": found["failed_new"]}]
    )
    shifts = found.get("area_shifts") or {}
    page.table("Change of each class's share of the pixels", [{"class": key, "change": v} for key, v in shifts.items()])
    heading = "Inputs on which the two agree least"
    columns = ("uri", "member", "agreement", "changed", "confidence_old", "confidence_new")
    page.table(
        heading, [{name.replace("_", ", "): pair.compared[name] for name in columns} for pair in comparison.worst]
    )
    if isinstance(task, ImageSegmentation):
        page.legend(heading, dict(zip(task.classes, task.palette, strict=True)))
        page.cards(heading, list(_cards(comparison, run, task)))
    return page.write(storage.join(folder, "report.html"))


def _cards(comparison: Comparison, run: str, task: ImageSegmentation) -> Iterator[Card]:
    """The old and the new mask of each pair, over the image where it can be read again."""
    until = time.monotonic() + _READING_S
    images = contents([pair.new for pair in comparison.worst], task.inputs, storage.join(run, "manifest"), until)
    for pair in comparison.worst:
        uri, member = pair.new["uri"], pair.new["member"]
        data, _ = images.get((uri, member), (None, ""))
        try:
            image = None if data is None else decode_image(data, task.max_pixels)
        except (InputError, MemoryError):
            image = None
        shown = []
        for side, row in (("old", pair.old), ("new", pair.new)):
            mask = decode_mask(row["mask"]["bytes"])
            if image is None or image.shape[:2] != mask.shape:
                shown.append((side, coloured(mask, task.palette)))
            else:
                shown.append((side, overlay(image, mask, task.palette)))
        name = uri.rpartition("/")[2] if member is None else f"{uri.rpartition('/')[2]} {member}"
        yield beside(name, shown, [f"agreement {pair.compared['agreement']:.2f}"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3g}"
