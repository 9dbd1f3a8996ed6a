"""Segment images: write a mask for each image of a source to a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    tta: Literal["none", "flip", "scales"] | None = None
    """Test-time augmentation, which averages results: flip, of the image and its mirror image, at twice the time;
    scales, of both at 0.75, 1 and 1.25 times the size, at about seven times the time. null: as in the package."""


def work(settings: SegmentImages) -> dict[str, Any]:
    return segment(settings, MASKS, {"max_pixels": settings.max_pixels, "tta": settings.tta})


if __name__ == "__main__":
    main(SegmentImages, work)
