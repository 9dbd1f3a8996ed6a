"""Label queue: the inputs of a table that are most worth labelling, with their masks to correct."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say, warn
from pipeline import storage
from pipeline.config import check, to_dict
from pipeline.errors import DONE, FAILED
from pipeline.exports.queue import write_queue
from pipeline.storage import StorageConfig


@dataclass(frozen=True, kw_only=True)
class LabelQueue:
    """Choose the images of a table that are most worth labelling: uncertain and novel ones, unlike each other by their
    embeddings. Writes their masks as pre-annotations for Label Studio and CVAT; merge_labels takes the corrected labels
    back."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    out: str
    """Folder of this machine to write to; it must be new or empty."""
    count: int = 200
    """Number of images to choose."""
    where: str | None = None
    """SQL condition on the rows, such as "uri like '%/night/%'"."""
    without: list[str] | str | None = None
    """Folder of an earlier queue, whose images are left out; may be repeated."""
    background: list[str] | str | None = None
    """Name of a class that gets no annotations; may be repeated."""
    images: bool = True
    """Copy the images to OUT/images, to give them to the tools."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "count", self.count >= 1, "be at least 1")


def work(settings: LabelQueue) -> dict[str, Any]:
    found = write_queue(
        settings.sink,
        settings.out,
        settings.count,
        where=settings.where,
        without=_listed(settings.without),
        background=_listed(settings.background),
        has_copies=settings.images,
        tell=lambda failed: warn(str(failed)),
    )
    say(f"{found.queued} images are in the queue")
    if found.unreadable:
        warn(f"{found.unreadable} images are gone or changed, and are not in the queue")
    is_failed = not found.queued and bool(found.unreadable)
    return {
        "out": storage.canonical(settings.out),
        **to_dict(found),
        "status": "failed" if is_failed else "done",
        "exit_code": FAILED if is_failed else DONE,
    }


def _listed(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


if __name__ == "__main__":
    main(LabelQueue, work)
