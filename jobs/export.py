"""Export: what is in a table, in the forms that other tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.cli import main
from jobs.console import say, warn
from pipeline.config import check, to_dict
from pipeline.errors import DONE, FAILED
from pipeline.exports.export import export
from pipeline.storage import StorageConfig


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the current rows of a table in a form that other tools read. Rows of failed inputs are left out and
    counted."""

    sink: str
    """URI of the sink: the table is SINK/table."""
    to: Literal["png", "coco", "label-studio", "cvat", "huggingface", "text"]
    """png, mask files; coco, COCO's instances.json; label-studio, tasks with predictions; cvat, CVAT for images 1.1;
    huggingface, a folder for load_dataset; text, documents with a blank line between paragraphs."""
    out: str
    """Folder of this machine to write to; it must be new or empty."""
    where: str | None = None
    """SQL condition on the rows, such as "confidence < 0.5"."""
    limit: int | None = None
    """Largest number of rows to export; null: all."""
    background: list[str] | str | None = None
    """Name of a class that gets no annotations in coco, label-studio and cvat; may be repeated."""
    polygons: bool = False
    """Polygons instead of runs of pixels in coco."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "limit", self.limit is None or self.limit >= 1, "be at least 1, or null")
        forms = ("coco", "label-studio", "cvat")
        check(self, "background", not self.background or self.to in forms, f"be empty unless to is {', '.join(forms)}")
        check(self, "polygons", not self.polygons or self.to == "coco", "be false unless to is coco")


def work(settings: Export) -> dict[str, Any]:
    background = [settings.background] if isinstance(settings.background, str) else settings.background
    found = export(
        settings.sink,
        settings.to,
        settings.out,
        where=settings.where,
        limit=settings.limit,
        background=background or [],
        as_polygons=settings.polygons,
        tell=lambda failed: warn(str(failed)),
    )
    say(f"{found.exported} rows are exported; {found.left_out} of failed inputs are left out")
    if found.unreadable:
        warn(f"{found.unreadable} documents are gone or changed, and could not be exported")
    is_failed = not found.exported and bool(found.left_out or found.unreadable)
    return {
        "out": settings.out,
        **to_dict(found),
        "status": "failed" if is_failed else "done",
        "exit_code": FAILED if is_failed else DONE,
    }


if __name__ == "__main__":
    main(Export, work)
