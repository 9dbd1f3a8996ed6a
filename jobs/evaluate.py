"""Evaluate a package on labelled data: metrics, and a page for people."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from jobs.cli import main
from jobs.console import CONSOLE, say, warn
from jobs.failures import name_failures
from pipeline import config, package, storage
from pipeline.errors import RequestError
from pipeline.images.classification import ImageClassification
from pipeline.images.labels import LabelRules, read_classes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.quality.evaluation import illustrate, score, summarize
from pipeline.quality.evaluation_page import evaluation_page
from pipeline.quality.scoring import ClassificationScorer, DocumentScorer, ImageScorer, ReconstructionScorer, Scorer
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.events import Event
from pipeline.runs.life import store_json
from pipeline.source.labelled import all_inputs, class_inputs, split_files
from pipeline.storage import StorageConfig
from pipeline.table.lease import check_place
from pipeline.task import Task
from pipeline.text.reconstruction import PARAGRAPHS

KINDS: dict[str, type[Task]] = {
    task.kind: task for task in (ImageSegmentation, ImageClassification, ImageReconstruction, *PARAGRAPHS)
}
_PROGRESS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a package on labelled data: metrics, and a page for people."""

    model: str
    """URI of the model package."""
    data: str
    """Labelled image folder, a folder of images for each class, or documents with paragraphs. The paragraphs are joined
    by one space, to hide them."""
    split: str
    """Name of the split: for images, of the file SPLIT.txt in the folder; for documents, the value of the field split
    of their records. all: every document, whether it has that field or not, and every image in folders of classes."""
    group: str | None = None
    """Name of a field of the records; there are additional metrics for each of its values."""
    tta: Literal["none", "flip", "scales"] | None = None
    """For image segmenters: test-time augmentation; null: as in the package."""
    out: str | None = None
    """Folder for the page and the metrics; null: evaluations/SPLIT in the package, or
    evaluations/SPLIT-TTA if tta is given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """On a cluster: the device on which the model runs; auto: GPUs if the cluster has any."""
    stall_timeout_s: float = 900.0
    """On a cluster: seconds without a result after which the evaluation fails."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def work(settings: Evaluate) -> dict[str, Any]:
    described = package.load(settings.model)
    if described.kind not in KINDS:
        raise RequestError(f"model package at {settings.model} is of a kind that cannot be evaluated: {described.kind}")
    if settings.tta is not None and described.kind != ImageSegmentation.kind:
        raise RequestError(f"tta is for image segmenters, and {settings.model} is of kind {described.kind!r}")
    changed = {} if settings.tta is None else {"tta": settings.tta}
    task = config.from_dict(KINDS[described.kind], described.task | changed)
    rows, scorer = _rows(settings, task), _scorer(settings, task)
    if settings.out is None and settings.model.startswith(package.BUILTIN):
        raise RequestError(f"out must be given for a package that is not in a folder of yours, {settings.model!r}")
    name = settings.split if settings.tta is None else f"{settings.split}-{settings.tta}"
    out = settings.out or storage.join(settings.model, "evaluations", name)
    say(f"evaluating {described.kind} on {rows.num_rows} inputs")
    model = described.model()
    found = summarize(scorer, _scores(settings, scorer, described, model, rows, out))
    illustrate(found, scorer, model, rows)
    if found.failed:
        say(f"{len(found.failures)} inputs could not be evaluated: {found.failed}")
    name_failures([(settings.split, item) for item in found.failures], out)
    if found.missing_classes:
        unit = "image" if isinstance(task, ImageClassification) else "pixel"
        warn(f"no {unit} in the labels: {', '.join(found.missing_classes)}")
    if found.without_split:
        warn(f"{found.without_split} documents have no field 'split' and were left out")
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
    pq.write_table(found.scores, (table := io.BytesIO()))
    storage.write(storage.join(out, "scores.parquet"), table.getvalue())
    palette = dict(zip(task.classes, task.palette, strict=True)) if isinstance(task, ImageSegmentation) else {}
    about = {"model": settings.model, "digest": described.digest, "data": settings.data, "split": settings.split}
    page = evaluation_page(f"{described.kind} on {settings.split}", found, about, palette)
    return summary | {"report": page.write(storage.join(out, "report.html"))}


def _scorer(settings: Evaluate, task: Task) -> Scorer:
    if isinstance(task, PARAGRAPHS):
        return DocumentScorer(task=task, split=settings.split, group=settings.group)
    if isinstance(task, ImageSegmentation):
        return ImageScorer(task=task, rules=_label_rules(settings, task))
    if isinstance(task, ImageClassification):
        return ClassificationScorer(task=task)
    assert isinstance(task, ImageReconstruction), task
    return ReconstructionScorer(task=task)


def _scores(
    settings: Evaluate, scorer: Scorer, described: package.Package, model: nn.Module, rows: pa.Table, out: str
) -> pa.Table:
    """On the cluster at an address, if there is one; otherwise in this process, which uses all its CPUs."""
    progress = _Progress(rows.num_rows)
    if settings.cluster.is_own:
        return score(scorer, model, rows, progress)
    from jobs.clusters import evaluated_on_cluster  # needs Ray

    check_place(out, "out")
    return evaluated_on_cluster(
        scorer,
        described,
        rows,
        out,
        cluster=settings.cluster,
        device=settings.device,
        stall_timeout_s=settings.stall_timeout_s,
        progress=progress,
    )


class _Progress:
    """Says how far the evaluation is, every few seconds."""

    def __init__(self, inputs: int) -> None:
        self._inputs, self._last = inputs, time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._last >= _PROGRESS_S:
            self._last = time.monotonic()
            CONSOLE(Event(kind="progress", text=f"{done} of {self._inputs} inputs", facts={"done": done}))


def _rows(settings: Evaluate, task: Task) -> pa.Table:
    if isinstance(task, PARAGRAPHS):
        return all_inputs(settings.data, task.inputs)
    if isinstance(task, ImageClassification):
        return class_inputs(settings.data, task.inputs, None if settings.split == "all" else settings.split)
    return split_files(settings.data, settings.split)


def _label_rules(settings: Evaluate, task: ImageSegmentation) -> LabelRules:
    """The rules of the data's own classes.json. Its classes are the package's; in another order they are mapped."""
    rules = LabelRules(**read_classes(settings.data)).for_classes(task.classes, settings.model)
    if rules.classes != task.classes:
        say("the classes of the data have another order than those of the package; they are mapped by name")
    return rules


if __name__ == "__main__":
    main(Evaluate, work)
