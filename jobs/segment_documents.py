"""Segment documents: the paragraphs of every document of a source, in a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli import main
from jobs.wiring import SegmentSettings, segment
from pipeline.text.task import TextSegmentation


@dataclass(frozen=True, kw_only=True)
class SegmentDocuments(SegmentSettings):
    """Segment documents: the paragraphs of every document of a source, in a Parquet table."""

    max_chars: int | None = None
    """Longest document, in characters, instead of the package's limit."""
    threshold: float | None = None
    """Probability from which a sentence begins a paragraph, instead of the package's."""


def work(settings: SegmentDocuments) -> dict[str, Any]:
    return segment(settings, TextSegmentation, {"max_chars": settings.max_chars, "threshold": settings.threshold})


if __name__ == "__main__":
    main(SegmentDocuments, work)
