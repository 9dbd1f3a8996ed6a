"""Merge labels: corrected labels of a queue into a labelled folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from jobs.failures import name_failures
from pipeline import storage
from pipeline.config import to_dict
from pipeline.errors import DONE, FAILED
from pipeline.exports.annotations import read_annotations
from pipeline.exports.merging import LabelledFolder, merge
from pipeline.rows import FailedInput, by_code
from pipeline.storage import StorageConfig


@dataclass(frozen=True, kw_only=True)
class MergeLabels:
    """Merge the corrected labels of a queue into a labelled image folder, which train_image_segmenter reads. Images
    that it has get their new label, others are added to train.txt."""

    labels: str
    """What the tool has exported: the JSON of Label Studio; or CVAT for images 1.1, annotations.xml or the archive with
    it."""
    queue: str
    """Folder that label_queue wrote."""
    into: str
    """Labelled folder to add to, or a new one, which gets the classes of the queue."""
    fill: str | None = None
    """Class of pixels that no shape covers; null: they have no class, which needs an ignore_index in INTO/classes.json.
    """
    storage: StorageConfig = field(default_factory=StorageConfig)


def work(settings: MergeLabels) -> dict[str, Any]:
    annotated, without = read_annotations(settings.labels)
    folder = LabelledFolder(settings.into, settings.queue, settings.fill)
    failed: list[FailedInput] = []
    found = merge(annotated, settings.queue, folder, failed.append)
    say(f"{found.added} images are new in train.txt, {found.relabelled} have a new label, {without} have no annotation")
    if failed:
        say(f"{len(failed)} images could not be merged: {by_code(failed)}")
        name_failures([("labels", item) for item in failed], settings.into)
    is_failed = bool(failed) and not found.added + found.relabelled
    return {
        "into": storage.canonical(settings.into),
        **to_dict(found),
        "without_annotation": without,
        "failed": by_code(failed),
        **({"error": "no image could be merged"} if is_failed else {}),
        "status": "failed" if is_failed else "done",
        "exit_code": FAILED if is_failed else DONE,
    }


if __name__ == "__main__":
    main(MergeLabels, work)
