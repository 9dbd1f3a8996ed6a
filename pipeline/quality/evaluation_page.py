"""The page of an evaluation: which model on which data, its metrics, and the inputs that it does worst on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.quality import charts
from pipeline.quality.evaluation import Evaluation
from pipeline.quality.pages import Page
from pipeline.text.outputs import MARKS_TEXT

_TILES = 6
_MOST_CLASSES = 40  # of a confusion that people can read
_DOCUMENT_SCORES = ("paragraphs", "f1", "pk", "window_diff")
_BINS, _WORST = 20, 10


def evaluation_page(
    title: str, found: Evaluation, about: Mapping[str, str], palette: Mapping[str, Sequence[int]]
) -> Page:
    """The page. ``about``: model, data and so on; ``palette``: the colour of each class, empty without classes."""
    page = Page(title, f"{about.get('model', '')} on {about.get('data', '')}")
    shown = list(found.metrics.items())
    page.tiles("Metrics", [(name, "–" if value is None else f"{value:.4g}", "") for name, value in shown[:_TILES]])
    if found.missing_classes:
        page.note("Metrics", f"Not in the labels: {', '.join(found.missing_classes)}", tone="warn")
    if found.without_split:
        text = f"{found.without_split:,} documents have no field 'split' and were left out"
        page.note("Metrics", text, tone="warn")
    if len(shown) > _TILES:
        page.table("Metrics", [{"metric": name, "value": value} for name, value in shown])
    if len(found.details) > 1:  # one row says what the metrics do
        page.table("Details", found.details)
    if 0 < len(found.confusion) <= _MOST_CLASSES:
        page.text("Confusion", "For each true class, a row: the fractions of it that the classes got.")
        page.table("Confusion", found.confusion, heat=True)
    codes = list(found.failed.items())
    if codes:
        page.charts("Failed inputs", ("By error code", charts.bars("Failed inputs by error code", codes), ""))
        rows = [
            {"code": item.code, "input": item.uri if item.member is None else f"{item.uri} #{item.member}"}
            | {"label": item.label, "message": item.message}
            for item in found.failures[:20]
        ]
        page.table("Failed inputs", rows)
    if found.cards:
        heading = "The inputs with the worst scores, the worst first"
        if palette:
            page.legend(heading, palette)
        page.cards(heading, found.cards)
    if "document" in found.scores.column_names:
        _documents(page, found.scores)
    for heading, markup in found.markup:
        page.markup(heading, markup)
    page.table("What was evaluated", [{"what": name, "value": value} for name, value in about.items()])
    return page


def _documents(page: Page, scores: pa.Table) -> None:
    """How documents differ, and the worst of them."""
    heading = "Documents, the worst first"
    rows = scores.filter(pc.field("f1").is_valid()).sort_by("f1").select(["document", *_DOCUMENT_SCORES])
    if not rows.num_rows:
        return
    counts, _ = np.histogram(rows["f1"].to_numpy(), bins=_BINS, range=(0, 1))
    chart = charts.histogram("F1 of documents", 0, 1, counts.tolist(), x_label="F1 of a document", of="documents")
    page.charts(heading, ("F1 of documents", chart, ""))
    page.table(heading, rows.slice(0, _WORST).to_pylist())
    if rows.num_rows > _WORST:
        page.text(heading, f"scores.parquet beside this page has all {rows.num_rows:,} documents.")
    page.text(heading, f"Below are the beginnings of the worst. {MARKS_TEXT}")
