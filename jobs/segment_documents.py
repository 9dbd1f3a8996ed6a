"""Segment documents: write the paragraphs of all documents of a source to a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli import main
from jobs.segmenting import SegmentSettings, segment
from pipeline.text.task import TextSegmentation


@dataclass(frozen=True, kw_only=True)
class SegmentDocuments(SegmentSettings):
    """Segment documents: write the paragraphs of all documents of a source to a Parquet table."""

    max_chars: int | None = None
    """Largest number of characters of a document; longer ones become error rows. null: the package's limit."""
    threshold: float | None = None
    """Probability from which on a sentence begins a paragraph; null: the package's setting."""


def work(settings: SegmentDocuments) -> dict[str, Any]:
    return segment(settings, [TextSegmentation], {"max_chars": settings.max_chars, "threshold": settings.threshold})


if __name__ == "__main__":
    main(SegmentDocuments, work)
