"""The page of a training: its curves, its metrics, what the model makes of validation samples, and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline import config, package, storage
from pipeline.errors import InputError
from pipeline.images import letterbox
from pipeline.images.inputs import NO_CLASS, fit_label
from pipeline.images.outputs import decode_mask, overlay
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.regions import ImageRegions
from pipeline.images.task import ImageSegmentation
from pipeline.quality import charts
from pipeline.quality.charts import Line
from pipeline.quality.pages import Card, Page
from pipeline.quality.pictures import READ_AGAIN, beside
from pipeline.quality.scoring import DocumentScorer
from pipeline.source.fetch import fetch
from pipeline.task import Task
from pipeline.text.outputs import MARKS_TEXT, beginning, render_html
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.task import TextSegmentation
from pipeline.training.samples import Samples

_SHOWN = 12
_POINTS = 120  # of a curve
_DOCUMENT_CHARS = 6_000
_CLASSES = "iou/"


def training_page(out: str, task: type[Task], validation: Samples, inputs: pa.Table, summary: Mapping[str, Any]) -> str:
    """Write ``OUT/report.html`` of a finished training; returns its URI.

    ``validation``: its samples. ``inputs``: the inputs that these were prepared from, as a listing has them.
    """
    described = package.load(out)
    trained, model = config.from_dict(task, described.task), described.model()
    page = Page(f"Training of {described.kind}", out)
    losses, metrics = (_lines(storage.join(out, name)) for name in ("history.jsonl", "metrics.jsonl"))
    _overview(page, trained, summary, metrics)
    _curves(page, trained, losses, metrics)
    _classes(page, summary.get("metrics", {}))
    if isinstance(trained, ImageRegions):
        page.legend("Validation samples", dict(zip(trained.classes, trained.palette, strict=True)))
        page.cards("Validation samples", _regions(trained, model, validation))
    elif isinstance(trained, ImageSegmentation):
        page.legend("Validation samples", dict(zip(trained.classes, trained.palette, strict=True)))
        page.cards("Validation samples", _segmented(trained, model, validation))
    elif isinstance(trained, ImageReconstruction):
        page.cards("Validation samples", _reconstructed(trained, model, validation))
    elif isinstance(trained, TextSegmentation | SentenceReconstruction):
        _document(page, trained, model, inputs)
    card = storage.join(out, "card.md")
    if storage.exists(card):
        page.preformatted("The model's card", storage.read(card).decode("utf-8", "replace"))
    return page.write(storage.join(out, "report.html"))


def _overview(page: Page, task: Task, summary: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]) -> None:
    name, way = task.metric
    best = summary.get("metrics", {}).get(name)
    measured = [line for line in metrics if name in line]
    at = (max if way == "max" else min)(measured, key=lambda line: line[name])["step"] if measured else None
    tiles = [
        (f"Best {name}", "–" if best is None else f"{best:.4g}", "" if at is None else f"at step {at:,.0f}"),
        ("Steps", f"{summary['steps']:,}", ""),
        ("Training samples", f"{summary['train_samples']:,}", ""),
        ("Validation samples", f"{summary['validation_samples']:,}", ""),
        ("Parameters", charts.number(summary["parameters"]), ""),
        ("Time", f"{summary['training_seconds']:,.0f} s", "since it began or was resumed"),
    ]
    page.tiles("What was trained", tiles)
    for part, classes in summary.get("missing_classes", {}).items():
        if classes:
            page.note("What was trained", f"No pixel in the {part} labels: {', '.join(classes)}", tone="warn")
    for part, failed in summary.get("failed_inputs", {}).items():
        if failed:
            codes = ", ".join(f"{code} {count:,}" for code, count in failed.items())
            page.note("What was trained", f"Inputs of {part} that could not be used: {codes}", tone="warn")


def _curves(
    page: Page, task: Task, losses: Sequence[Mapping[str, float]], metrics: Sequence[Mapping[str, float]]
) -> None:
    shown = []
    names = list(dict.fromkeys(name for line in losses for name in line if name != "step"))
    for name in names:
        line = _smoothed(name, [(item["step"], item[name]) for item in losses if name in item])
        chart = charts.lines(f"Training {name} by step", [line], x_label="step")
        caption = "Mean of neighbouring steps, and the range that they are in." if line.low else ""
        shown.append((f"Training {name}", chart, caption))
    measured = list(dict.fromkeys(name for line in metrics for name in line if name != "step"))
    first = task.metric[0]
    for name in sorted((name for name in measured if not name.startswith(_CLASSES)), key=lambda name: name != first):
        line = _line(name, name, metrics)
        chart = charts.lines(f"{name} on validation samples by step", [line], x_label="step")
        shown.append((f"Validation {name}", chart, ""))
    classes = [name for name in measured if name.startswith(_CLASSES)]
    if 0 < len(classes) <= 6 and len(metrics) > 1:
        lines = [_line(name, name.removeprefix(_CLASSES), metrics) for name in classes]
        shown.append(("Validation IoU by class", charts.lines("IoU of each class by step", lines, x_label="step"), ""))
    if shown:
        page.charts("Curves", *shown)


def _classes(page: Page, metrics: Mapping[str, float]) -> None:
    found = [(name.removeprefix(_CLASSES), value) for name, value in metrics.items() if name.startswith(_CLASSES)]
    if found:
        page.charts("Classes", ("IoU on validation samples", charts.bars("IoU by class", found), ""))
    rest = [{"metric": name, "value": value} for name, value in metrics.items() if not name.startswith(_CLASSES)]
    page.table("Metrics of the package", rest)


def _segmented(task: ImageSegmentation, model: Any, samples: Samples) -> list[Card]:
    """Validation samples spread over all, with the truth and the prediction, the worst first."""
    rows = samples.take(_places(len(samples)))
    batch = task.collate(rows)
    with torch.inference_mode():
        found = torch.cat([model(letterbox.unit(image[None])).argmax(1) for image in batch["image"]]).numpy()
    cards: list[tuple[float, Card]] = []
    for index in range(rows.num_rows):
        inside = _inside(rows, index)
        image = batch["image"][index].permute(1, 2, 0).numpy()[inside]
        truth, mask = batch["label"][index].numpy()[inside], found[index][inside]
        known = truth != NO_CLASS
        share = float((mask == truth)[known].mean()) if known.any() else 1.0
        pictures = [("truth", overlay(image, truth, task.palette)), ("prediction", overlay(image, mask, task.palette))]
        cards.append((share, beside(f"Sample {index + 1}", pictures, [f"{share:.0%} of the pixels are right"])))
    return [card for _, card in sorted(cards, key=lambda item: item[0])]


def _regions(task: ImageRegions, model: Any, samples: Samples) -> list[Card]:
    """Validation samples spread over all, beside the regions that were found in them."""
    prepared = task.compressed(samples.take(_places(len(samples))))
    found = task.encode(task.predict(model, prepared, torch.device("cpu")))
    images = letterbox.images(prepared, task).permute(0, 2, 3, 1).numpy()
    cards = []
    for index, row in enumerate(found.to_pylist()):
        image = images[index][_inside(prepared, index)]
        mask = fit_label(decode_mask(row["mask"]["bytes"]), *image.shape[:2])
        pictures = [("image", image), ("regions", overlay(image, mask, task.palette))]
        cards.append(beside(f"Sample {index + 1}", pictures, [f"confidence {row['confidence']:.2f}"]))
    return cards


def _reconstructed(task: ImageReconstruction, model: Any, samples: Samples) -> list[Card]:
    rows = samples.take(_places(len(samples)))
    seen = task.seen(letterbox.unit(letterbox.images(rows, task)))
    with torch.inference_mode():
        again = model.reconstruct(seen).expand(-1, 3, -1, -1)
    cards = []
    for index in range(rows.num_rows):
        pair = [
            (name, found[index]) for name, found in (("input", seen.expand(-1, 3, -1, -1)), ("reconstruction", again))
        ]
        pictures = [
            (name, (found.permute(1, 2, 0) * 255).round().clamp(0, 255).numpy().astype(np.uint8)[_inside(rows, index)])
            for name, found in pair
        ]
        cards.append(beside(f"Sample {index + 1}", pictures))
    return cards


def _document(page: Page, task: TextSegmentation | SentenceReconstruction, model: Any, inputs: pa.Table) -> None:
    """The first document that can be read again, with its true and its found paragraphs."""
    scorer = DocumentScorer(task=task, split="all")
    for index in range(min(3, inputs.num_rows)):
        row = inputs.slice(index, 1)
        data, _ = fetch(row, task.inputs, READ_AGAIN)
        if data[0] is None:
            continue
        try:
            shown = scorer.shown(model, data[0], row["format"][0].as_py(), torch.device("cpu"))
        except InputError:
            continue
        heading = "A validation document"
        page.text(heading, MARKS_TEXT)
        page.markup(heading, render_html(shown.text, beginning(shown.paragraphs, _DOCUMENT_CHARS), shown.truth))
        return


def _places(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(np.int64))


def _inside(rows: pa.Table, index: int) -> tuple[slice, slice]:
    """The part of the box that the image fills."""
    return slice(0, rows["valid_height"][index].as_py()), slice(0, rows["valid_width"][index].as_py())


def _line(name: str, shown: str, metrics: Sequence[Mapping[str, float]]) -> Line:
    points = [(item["step"], item[name]) for item in metrics if name in item]
    return Line(name=shown, x=[step for step, _ in points], y=[value for _, value in points])


def _smoothed(name: str, points: Sequence[tuple[float, float]]) -> Line:
    """A line of at most `_POINTS` means of neighbours, with a band from their lowest to their highest."""
    groups = np.array_split(np.array(points, np.float64).reshape(-1, 2), min(len(points), _POINTS)) if points else []
    means = [group.mean(0).tolist() for group in groups]
    is_joined = len(points) > _POINTS
    return Line(
        name=name,
        x=[step for step, _ in means],
        y=[value for _, value in means],
        low=[float(group[:, 1].min()) for group in groups] if is_joined else (),
        high=[float(group[:, 1].max()) for group in groups] if is_joined else (),
    )


def _lines(uri: str) -> list[dict[str, float]]:
    """The lines of a file of JSON lines; none if it is not there, or cut."""
    if not storage.exists(uri):
        return []
    try:
        return [json.loads(line) for line in storage.read(uri).splitlines()]
    except ValueError:
        return []
