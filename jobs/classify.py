"""Classify images: write the class of each image of a source to a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli import main
from jobs.segmenting import SegmentSettings, segment
from pipeline.config import check
from pipeline.images.classification import ImageClassification


@dataclass(frozen=True, kw_only=True)
class Classify(SegmentSettings):
    """Classify images: write the class of each image of a source to a Parquet table."""

    max_pixels: int | None = None
    """Largest number of pixels of an image; larger ones become error rows. null: the package's limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "compare", not self.compare, "not be given: pilots compare masks and paragraphs, not classes")


def work(settings: Classify) -> dict[str, Any]:
    return segment(settings, [ImageClassification], {"max_pixels": settings.max_pixels})


if __name__ == "__main__":
    main(Classify, work)
