"""Segment images: write a mask for each image of a source to a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli import main
from jobs.segmenting import SegmentSettings, segment
from pipeline.images.regions import ImageRegions
from pipeline.images.task import ImageSegmentation

#: The tasks that give masks.
MASKS = (ImageSegmentation, ImageRegions)


@dataclass(frozen=True, kw_only=True)
class SegmentImages(SegmentSettings):
    """Segment images: write a mask for each image of a source to a Parquet table."""

    max_pixels: int | None = None
    """Largest number of pixels of an image; larger ones become error rows. null: the package's limit."""


def work(settings: SegmentImages) -> dict[str, Any]:
    return segment(settings, MASKS, {"max_pixels": settings.max_pixels})


if __name__ == "__main__":
    main(SegmentImages, work)
