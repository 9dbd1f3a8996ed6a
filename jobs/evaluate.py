"""Evaluate a package on labelled data: metrics, and a page for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.cli import main, say
from jobs.failures import name_failures
from pipeline import config, package, storage
from pipeline.errors import RequestError
from pipeline.images.labels import LabelRules, read_classes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.quality.evaluation import Evaluation, evaluate_autoencoder, evaluate_documents, evaluate_images
from pipeline.quality.pages import Page
from pipeline.runs.life import store_json
from pipeline.source.labelled import all_inputs, split_files
from pipeline.storage import StorageConfig
from pipeline.task import Task
from pipeline.text.task import TextSegmentation

KINDS: dict[str, tuple[type[Task], Callable[..., Evaluation]]] = {
    ImageSegmentation.kind: (ImageSegmentation, evaluate_images),
    ImageReconstruction.kind: (ImageReconstruction, evaluate_autoencoder),
    TextSegmentation.kind: (TextSegmentation, evaluate_documents),
}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a package on labelled data: metrics, and a page for people."""

    model: str
    """URI of the model package."""
    data: str
    """Labelled image folder, or documents with paragraphs. The paragraphs are joined by one space, to hide them."""
    split: str
    """Name of the split: for images, of the file SPLIT.txt in the folder; for documents, the value of the field
    split of their records, or all: every document, whether it has that field or not."""
    group: str | None = None
    """Name of a field of the records; there are additional metrics for each of its values."""
    out: str | None = None
    """Folder for the page and the metrics; null: evaluations/SPLIT in the package."""
    storage: StorageConfig = field(default_factory=StorageConfig)


def work(settings: Evaluate) -> dict[str, Any]:
    described = package.load(settings.model)
    if described.kind not in KINDS:
        raise RequestError(f"model package at {settings.model} is of a kind that cannot be evaluated: {described.kind}")
    task_class, evaluate = KINDS[described.kind]
    task = config.from_dict(task_class, described.task)
    rows = _rows(settings, task)
    extra: dict[str, Any] = {}
    if isinstance(task, TextSegmentation):
        extra = {"split": settings.split, "group": settings.group}
    elif isinstance(task, ImageSegmentation):
        extra = {"rules": _label_rules(settings, task)}
    say(f"evaluating {described.kind} on {rows.num_rows} inputs")
    found = evaluate(task, described.model(), rows, **extra)
    out = settings.out or storage.join(settings.model, "evaluations", settings.split)
    if found.failed:
        say(f"{len(found.failures)} inputs could not be evaluated: {found.failed}")
    name_failures([(settings.split, item) for item in found.failures], out)
    if found.missing_classes:
        say(f"warning: no pixel in the labels: {', '.join(found.missing_classes)}")
    if found.without_split:
        say(f"warning: {found.without_split} documents have no field 'split' and were left out")
    summary = {
        "status": "done",
        "model": described.digest,
        "data": settings.data,
        "split": settings.split,
        "inputs": rows.num_rows,
        "failed": found.failed,
        "missing_classes": found.missing_classes,
        "without_split": found.without_split,
        "metrics": found.metrics,
        "details": found.details,
    }
    store_json(storage.join(out, "metrics.json"), summary)
    page = Page(f"{described.kind} on {settings.split}")
    page.table("Metrics", [{"metric": name, "value": value} for name, value in found.metrics.items()])
    page.table("Details", found.details)
    page.table("Failed inputs", [{"code": code, "inputs": count} for code, count in found.failed.items()])
    if found.pictures:
        page.pictures("Pictures", list(found.pictures))
    for heading, markup in found.markup:
        page.markup(heading, markup)
    return summary | {"report": page.write(storage.join(out, "report.html"))}


def _rows(settings: Evaluate, task: Task) -> pa.Table:
    if isinstance(task, TextSegmentation):
        return all_inputs(settings.data, task.inputs)
    return split_files(settings.data, settings.split)


def _label_rules(settings: Evaluate, task: ImageSegmentation) -> LabelRules:
    """The rules of the data's own classes.json. Its classes are the package's; in another order they are mapped."""
    rules = LabelRules(**read_classes(settings.data)).for_classes(task.classes, settings.model)
    if rules.classes != task.classes:
        say("the classes of the data have another order than those of the package; they are mapped by name")
    return rules


if __name__ == "__main__":
    main(Evaluate, work)
