"""The page of a segmentation run: what was done, what it looks like, how it differs from earlier runs, and what bound
it.

It is made from the committed rows of the run, so it can be made again at any time. The numbers of inputs are those of
the summary; areas, histograms and samples are those of the rows that are in the table.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images.classification import ImageClassification
from pipeline.images.task import ImageSegmentation
from pipeline.quality import bottleneck, charts
from pipeline.quality.bottleneck import Usage
from pipeline.quality.distributions import RANGES, Distributions, Place, Reading, Shown, earlier, mean_share, nearest
from pipeline.quality.drift import Drift, drift
from pipeline.quality.pages import Card, Page, Picture
from pipeline.quality.pictures import Key, contents, masked_pictures, plain_picture
from pipeline.runs.gone import read_gone
from pipeline.table.parts import Part
from pipeline.table.readers import parts_of
from pipeline.task import Task
from pipeline.text.formats.readers import WITH_OCR
from pipeline.text.outputs import SCORES_TEXT, beginning, render_html
from pipeline.text.reading import read_document

#: Seconds after which no further rows are read. The page then says from how many parts its figures are.
READING_S = 20.0
_SAMPLE, _UNCERTAIN, _NOVEL, _FAMILIAR = 24, 8, 5, 3
_FAILED_OF_A_CODE, _DOCUMENTS, _DOCUMENT_CHARS = 5, 3, 6_000
_FAMILIAR_ROWS = 4_000
_GONE = 36
_CHART_BINS, _COLUMNS = 25, 40
_MEASURES = {
    "confidence": ("Confidence", "mean probability of the chosen class"),
    "novelty": ("Novelty", "percentage of held-out training images that are more familiar"),
    "paragraph_length": ("Length of paragraphs", "mean characters of a paragraph of a document"),
}
_POWERS = ("paragraph_length",)  # measures that are common logarithms


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a run was, besides its summary."""

    sink: str
    run_id: str
    task: Task
    timeline: Mapping[str, Any]
    """As `pipeline.runs.timeline.Timeline` describes it; empty: not known."""
    device: str = "auto"
    fetch_threads: int = 16
    block_rows: int = 128

    @property
    def folder(self) -> str:
        return storage.join(self.sink, "runs", self.run_id)


def run_report(run: Described, summary: Mapping[str, Any], *, reading_s: float = READING_S) -> str:
    """Write the page of a run, and its ``statistics.json``, into its folder. Returns the URI of the page."""
    until = time.monotonic() + 2 * reading_s
    parts = own_parts(parts_of(run.sink), run.run_id)
    table = storage.join(run.sink, "table")
    reading = Reading(table, parts, run.run_id, shown=max(_UNCERTAIN, _FAILED_OF_A_CODE), deadline_s=reading_s)
    task = run.task if isinstance(run.task, ImageSegmentation) else None
    reading.found.store(run.folder, model=summary["model"], classes=None if task is None else task.classes)
    page = Page(f"Run {run.run_id}", f"{', '.join(summary['source'])} → {run.sink}")
    _overview(page, summary, reading.found)
    _failures(page, summary, reading)
    _gone(page, run, summary)
    _distributions(page, run, reading.found, summary["model"])
    _speed(page, run, summary)
    _documents_or_masks(page, run, reading, until)
    _settings(page, summary)
    return page.write(storage.join(run.folder, "report.html"))


def own_parts(parts: Sequence[Part], run_id: str) -> list[Part]:
    """The parts that a run has written. With its own rows they can hold older ones that it has rewritten."""
    return [part for part in parts if part.file.rpartition("/")[2].startswith(f"{run_id}-")]


def _overview(page: Page, summary: Mapping[str, Any], found: Distributions) -> None:
    counts = {name: summary.get(name, 0) for name in ("listed", "skipped", "done", "failed", "removed", "remade")}
    finished = counts["done"] + counts["failed"]
    tiles = [
        ("Listed", f"{counts['listed']:,}", "inputs"),
        ("In the table already", f"{counts['skipped']:,}", "not read again"),
        ("New or changed", f"{summary.get('pending', 0):,}", "to do in this run"),
        ("Done", f"{counts['done']:,}", _percent(counts["done"], finished)),
        ("Failed", f"{counts['failed']:,}", _percent(counts["failed"], finished)),
        ("Older rows replaced", f"{counts['removed']:,}", ""),
        ("Time", _duration(summary["seconds"]), _rate(finished, summary["seconds"])),
    ]
    if counts["remade"]:
        tiles.append(("Made again", f"{counts['remade']:,}", "another tool had deleted their rows"))
    if summary.get("gone"):
        tiles.append(("Gone", f"{summary['gone']:,}", "in the table, and not in the source any more"))
    heading = "What was done"
    status, error = summary.get("status", "done"), summary.get("error")
    if status != "done":
        text = f"The run ended before its end: {status}. {error or ''} The same command goes on where it stopped."
        page.note(heading, text, tone="bad")
    page.tiles(heading, tiles)
    for change in summary.get("other_tools", ()):
        page.note(heading, f"Another tool has changed the table: {change}", tone="warn")
    if not found.is_complete:
        page.note(
            heading,
            f"Reading all rows would have taken too long. Areas, histograms and samples below are from "
            f"{found.rows:,} rows of {found.parts_read:,} of the run's {found.parts:,} parts, chosen at random. The "
            "numbers of inputs above are exact.",
            tone="warn",
        )
    elif found.rows != finished:
        page.note(heading, f"{found.rows:,} rows of this run are in the table now.", tone="warn")


def _failures(page: Page, summary: Mapping[str, Any], reading: Reading) -> None:
    codes = sorted(summary["errors"].items(), key=lambda item: -item[1])
    if codes:
        page.charts("Failed inputs", ("By error code", charts.bars("Failed inputs by error code", codes), ""))
        rows = [
            {"code": code, "input": _name(row["uri"], row["member"]), **_without_code(row["error"])}
            for code, _ in codes
            for row in reading.failed.get(code, ())[:_FAILED_OF_A_CODE]
        ]
        page.text("Failed inputs", f"Up to {_FAILED_OF_A_CODE} inputs of each code. The table has all of them.")
        page.table("Failed inputs", rows)
    passed = [{"ending": ending, "files": count} for ending, count in summary.get("passed_over", {}).items()]
    if passed:
        page.text("Files passed over", "By the endings of their names these files are no inputs.")
        page.table("Files passed over", passed)


def _gone(page: Page, run: Described, summary: Mapping[str, Any]) -> None:
    """Inputs that the sources have no more; only a run that has listed them whole knows."""
    gone = read_gone(run.folder) if summary.get("gone") else None
    if gone is None:
        return
    heading = "Gone from the source"
    rest = f" The first {_GONE} of them:" if gone.num_rows > _GONE else ""
    text = f"{gone.num_rows:,} inputs have rows in the table, and the source has them no more. This removes their rows:"
    page.note(heading, text, code=f"python -m jobs.forget --sink {shlex.quote(run.sink)} --gone")
    if rest:
        page.text(heading, rest.strip())
    page.table(heading, [{"input": _name(**row)} for row in gone.slice(0, _GONE).to_pylist()])


def _documents_or_masks(page: Page, run: Described, reading: Reading, until: float) -> None:
    if isinstance(run.task, ImageSegmentation):
        _masks(page, run, run.task, reading, until)
    elif isinstance(run.task, ImageClassification):
        _labels(page, run, run.task, reading, until)
    else:
        _documents(page, run, reading, until)


def _masks(page: Page, run: Described, task: ImageSegmentation, reading: Reading, until: float) -> None:
    sample, uncertain, novel = reading.stratified(_SAMPLE), reading.uncertain[:_UNCERTAIN], reading.novel[:_NOVEL]
    neighbours = _neighbours(reading, novel)
    alike = [place for found in neighbours for place, _ in found]
    rows = reading.rows([item.place for item in (*sample, *uncertain, *novel)] + alike)
    data = contents(list(rows.values()), task.inputs, storage.join(run.folder, "manifest"), until)
    cards = _Cards(task, rows, data)
    if sample:
        page.text(
            "A sample of the masks",
            "Spread over the class with the most pixels and over tenths of the confidence. Move the slider to see an "
            "image with and without its mask.",
        )
        page.legend("A sample of the masks", dict(zip(task.classes, task.palette, strict=True)))
        page.cards("A sample of the masks", cards.of(sample))
    if uncertain:
        page.text("The most uncertain", "The images whose classes the model was least sure of, the worst first.")
        page.cards("The most uncertain", cards.of(uncertain))
    if novel:
        page.text(
            "The most novel",
            "Each row begins with an image that is least like the training data; beside it are familiar images of this "
            "run that are most similar, by the cosine of their embeddings.",
        )
        groups = []
        for item, found in zip(novel, neighbours, strict=True):
            beside = [card for place, cosine in found for card in cards.one(place, [f"similarity {cosine:.2f}"])]
            groups.append((f"{_short(item.name)} and what it resembles", [*cards.of([item]), *beside]))
        page.groups("The most novel", groups)


def _labels(page: Page, run: Described, task: ImageClassification, reading: Reading, until: float) -> None:
    """Images with their labels: a sample, and those that the model was least sure of."""
    parts = {
        "A sample of the labels": reading.sample[:_SAMPLE],
        "The most uncertain": reading.uncertain[:_UNCERTAIN],
    }
    rows = reading.rows([item.place for shown in parts.values() for item in shown])
    data = contents(list(rows.values()), task.inputs, storage.join(run.folder, "manifest"), until)
    for heading, shown in parts.items():
        cards = []
        for item in shown:
            row = rows.get(item.place)
            content, _ = data.get((row["uri"], row["member"]), (None, "")) if row is not None else (None, "")
            picture = None if content is None else plain_picture(content, task.max_pixels)
            if row is not None and row["label"] is not None and picture is not None:
                lines = [f"{row['label']} {row['confidence']:.0%}"]
                cards.append(
                    Card(
                        name=_name(row["uri"], row["member"], short=True),
                        pictures=[("image", picture)],
                        lines=lines,
                        tags=[row["label"]],
                    )
                )
        if cards:
            page.cards(heading, cards)


def _neighbours(reading: Reading, novel: Sequence[Shown]) -> list[list[tuple[Place, float]]]:
    """For each novel row, familiar rows that are most similar; none without embeddings."""
    if not novel:
        return []
    places, vectors = reading.familiar(_FAMILIAR_ROWS)
    own = reading.rows([item.place for item in novel], ("embedding",))
    found: list[list[tuple[Place, float]]] = []
    for item in novel:
        vector = own.get(item.place, {}).get("embedding")
        if vector is None or not len(places) or len(vector) != vectors.shape[1]:
            found.append([])
            continue
        first, cosines = nearest(np.asarray(vector, np.float32), vectors, _FAMILIAR)
        found.append([(places[int(index)], float(cosine)) for index, cosine in zip(first, cosines, strict=True)])
    return found


class _Cards:
    """Cards of rows; each picture is made once."""

    def __init__(
        self, task: ImageSegmentation, rows: Mapping[Place, dict[str, Any]], data: Mapping[Key, tuple[bytes, str]]
    ) -> None:
        self._task, self._rows, self._data = task, rows, data
        self._made: dict[Place, list[tuple[str, Picture]]] = {}

    def of(self, shown: Sequence[Shown]) -> list[Card]:
        return [card for item in shown for card in self.one(item.place)]

    def one(self, place: Place, first: Sequence[str] = ()) -> list[Card]:
        """The card of a row, with ``first`` as its first lines. None if its part is gone."""
        row = self._rows.get(place)
        if row is None or row["mask"] is None:
            return []
        if place not in self._made:
            data, _ = self._data.get((row["uri"], row["member"]), (None, ""))
            self._made[place] = masked_pictures(row["mask"]["bytes"], data, self._task.palette, self._task.max_pixels)
        pictures = self._made[place]
        pixels = dict(zip(self._task.classes, row["class_pixels"], strict=False))
        total = sum(pixels.values()) or 1
        largest = sorted(pixels.items(), key=lambda item: -item[1])[:3]
        lines = [", ".join(f"{name} {count / total:.0%}" for name, count in largest if count)]
        measures = {"confidence": "{:.2f}", "uncertainty": "{:.2f}", "novelty": "{:.0f}"}
        values = [f"{name} {form.format(row[name])}" for name, form in measures.items() if row.get(name) is not None]
        lines.append(", ".join(values))
        if len(pictures) == 1:
            lines.append("the mask alone: the image is gone, has changed, or is too large to read again")
        tags = [name for name, count in pixels.items() if count]
        return [
            Card(
                name=_name(row["uri"], row["member"], short=True), pictures=pictures, lines=[*first, *lines], tags=tags
            )
        ]


def _documents(page: Page, run: Described, reading: Reading, until: float) -> None:
    sample = sorted(reading.sample[:50], key=lambda item: item.confidence if item.confidence is not None else 2.0)
    chosen = [sample[place] for place in sorted({0, len(sample) // 2, len(sample) - 1})][:_DOCUMENTS] if sample else []
    rows = reading.rows([item.place for item in chosen])
    found = [rows[item.place] for item in chosen if item.place in rows and rows[item.place].get("paragraphs")]
    if not found:
        return
    heading = "Documents with their paragraphs"
    page.text(
        heading,
        f"The least sure, the middle and the surest document of a sample. {SCORES_TEXT}",
    )
    columns = ("num_chars", "num_paragraphs", "confidence")
    page.table(
        heading, [{"input": _name(row["uri"], row["member"])} | {key: row[key] for key in columns} for row in found]
    )
    data = contents(found, run.task.inputs, storage.join(run.folder, "manifest"), until)
    for row in found:
        name = _name(row["uri"], row["member"], short=True)
        content, form = data.get((row["uri"], row["member"]), (None, ""))
        if content is None:
            page.text(f"Document {name}", "It is gone, has changed, or is too large to read again.")
            continue
        if row.get("format") == WITH_OCR:
            page.text(f"Document {name}", "It was read by OCR, which takes too long to do it again for this page.")
            continue
        try:
            text = read_document(content, form).text
        except InputError:
            continue
        spans = [(span["start"], span["end"], span["score"]) for span in row["paragraphs"]]
        shown = beginning(spans, _DOCUMENT_CHARS)
        page.markup(f"Document {name}", render_html(text, shown))
        if len(shown) < len(spans):
            page.text(f"Document {name}", f"… and {len(spans) - len(shown):,} more paragraphs.")


def _distributions(page: Page, run: Described, found: Distributions, model: str) -> None:
    before = earlier(storage.join(run.sink, "runs"), run.run_id)
    same = [(name, content) for name, content in before if content["model"] == model]
    compared = same or before
    heading = "What the results look like"
    shown = []
    classes = run.task.classes if isinstance(run.task, ImageSegmentation) else ()
    if found.pixels.sum():
        palette = dict(zip(classes, run.task.palette, strict=True)) if isinstance(run.task, ImageSegmentation) else {}
        areas = [("this run", {name: int(value) for name, value in zip(classes, found.pixels, strict=True) if value})]
        areas += [
            (_day(name), {key: part for key, part in mean_share(content).items() if part}) for name, content in compared
        ]
        chart = charts.shares("Share of all pixels by class, this run and earlier ones", areas, palette)
        shown.append(("Area of the classes", chart, ""))
        if len(classes) <= 16:
            images = [(name, int(count)) for name, count in zip(classes, found.dominant, strict=True)]
            chart = charts.bars("Images by the class with the most pixels", images)
            shown.append(("Images by their largest class", chart, ""))
    for name, counts in found.measures.items():
        low, high = RANGES[name]
        title, what = _MEASURES[name]
        others = [_coarse(content["measures"][name]) for _, content in compared if name in content["measures"]]
        chart = charts.histogram(
            title, low, high, _coarse(counts.tolist()), others, x_label=what, powers=name in _POWERS
        )
        shown.append((title, chart, ""))
    if shown:
        page.charts(heading, *shown)
    _drift(page, found, classes, compared, bool(same))


def _drift(
    page: Page, found: Distributions, classes: Sequence[str], compared: Sequence[tuple[str, Any]], is_same: bool
) -> None:
    if not found.rows - found.failed:
        return
    heading = "Drift"
    if not compared:
        page.text(heading, "There is no earlier run of this sink to compare with.")
        return
    rows = []
    for name, counts in found.measures.items():
        reference = [content["measures"][name] for _, content in compared if name in content["measures"]]
        if reference:
            rows.append(_drift_row(_MEASURES[name][0], drift(counts, np.sum(reference, 0))))
    known = [{item["name"]: item for item in content.get("classes", ())} for _, content in compared]
    known = [item for item in known if set(item) == set(classes)]
    if known and len(found.dominant) == len(classes):
        reference = np.array([sum(item[name]["dominant"] for item in known) for name in classes])
        rows.append(_drift_row("Largest class of an image", drift(found.dominant, reference, merge=False)))
        each = [
            _drift_row(f"Area of {name}", drift(counts, np.sum([item[name]["shares"] for item in known], 0)))
            for name, counts in zip(classes, found.shares, strict=False)
        ]
        rows += sorted(each, key=lambda row: -row["PSI"])[:10]
    moved = [row["measure"] for row in rows if row["verdict"] in ("drift", "strong drift")]
    if moved:
        page.note(heading, f"These have moved: {', '.join(moved)}.", tone="warn")
    elif any(row["verdict"] == "no drift" for row in rows):
        page.note(heading, "Nothing has clearly moved.", tone="good")
    model = "of the same model" if is_same else "of another model, since this one has none"
    page.text(
        heading,
        f"Population stability index against the last {len(compared)} runs {model}, together. Up to 0.1 is usual, "
        "above 0.25 a strong change. The interval is that of chance, at 95 %; runs also differ from day to day.",
    )
    page.table(heading, rows)


def _drift_row(measure: str, found: Drift) -> dict[str, Any]:
    return {
        "measure": measure,
        "PSI": round(found.value, 4),
        "95 % interval": f"{found.low:.3f} to {found.high:.3f}",
        "verdict": found.verdict,
        "rows": found.rows,
        "earlier rows": found.reference_rows,
    }


def _speed(page: Page, run: Described, summary: Mapping[str, Any]) -> None:
    stages, line = summary.get("stage_seconds", {}), run.timeline
    heading = "What bound the run"
    advice = bottleneck.advice(usage(run, summary))
    page.note(heading, advice.text, code=advice.option or "")
    shown = []
    if sum(stages.values()):
        chart = charts.bars("Seconds by stage, all workers together", list(stages.items()), unit=" s")
        shown.append(("Work by stage, all workers together", chart, ""))
    bins, width = _joined(line.get("bins", []), line.get("width_s", 1.0))
    if sum(bool(item) for item in bins) > 2:
        rows = [item.get("rows", 0) / width for item in bins]
        chart = charts.columns("Inputs a second", width, {"inputs": rows}, x_label="seconds", y_label="inputs a second")
        shown.append(("Throughput", chart, "By when their part arrived."))
        busy = {stage: [item.get(stage, 0.0) / width for item in bins] for stage in stages}
        chart = charts.columns("Workers busy", width, busy, x_label="seconds", y_label="workers busy, on average")
        shown.append(("Work over time, by stage", chart, "Counted when a part arrives, so blocks show as peaks."))
    if shown:
        page.charts(heading, *shown)


def _joined(bins: list[dict[str, float]], width: float) -> tuple[list[dict[str, float]], float]:
    """The bins of a timeline, joined to at most `_COLUMNS`, and their width."""
    count = max(1, -(-len(bins) // _COLUMNS))
    groups = [bins[start : start + count] for start in range(0, len(bins), count)]
    joined = [{name: sum(item.get(name, 0.0) for item in group) for name in set().union(*group)} for group in groups]
    return joined, width * count


def usage(run: Described, summary: Mapping[str, Any]) -> Usage:
    """What a run had and did, for `bottleneck.advice`."""
    line = run.timeline
    return Usage(
        seconds=summary["seconds"],
        first_part_s=line.get("first_part_s"),
        stage_seconds=summary.get("stage_seconds", {}),
        actors=line.get("actors", 0),
        cpus=line.get("cpus", 0.0),
        gpus=line.get("gpus", 0.0),
        on_gpu=run.device == "gpu" or (run.device == "auto" and line.get("gpus", 0.0) > 0),
        blocks_queued=line.get("blocks_queued"),
        fetch_threads=run.fetch_threads,
        block_rows=run.block_rows,
    )


def _settings(page: Page, summary: Mapping[str, Any]) -> None:
    names = ("run_id", "source", "table", "table_version", "model", "settings", "status", "repeated", "orphans")
    rows = [{"what": name, "value": _plain(summary[name])} for name in names if name in summary]
    page.table("The run", rows)


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _without_code(error: Mapping[str, Any]) -> dict[str, Any]:
    return {name: error[name] for name in ("stage", "message")}


def _coarse(counts: Sequence[int]) -> list[int]:
    return np.asarray(counts).reshape(_CHART_BINS, -1).sum(1).tolist()


def _name(uri: str, member: str | None, short: bool = False) -> str:
    name = uri.rstrip("/").rpartition("/")[2] if short else uri
    return name if member is None else f"{name} #{member}"


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _day(run_id: str) -> str:
    """``20261126T012406.427816Z-60c2`` as ``26 Nov 01:24``; other names as they are."""
    try:
        return time.strftime("%d %b %H:%M", time.strptime(run_id[:15], "%Y%m%dT%H%M%S"))
    except ValueError:
        return run_id


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%} of this run" if whole else ""


def _rate(rows: int, seconds: float) -> str:
    return f"{charts.number(rows / seconds)} inputs a second" if seconds > 0 and rows else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
