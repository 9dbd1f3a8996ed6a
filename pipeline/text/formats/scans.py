"""Text in pictures of pages, by RapidOCR with PaddleOCR's models (PP-OCRv6, small), which its package contains.

It is the optional extra ``ocr``. OpenCV and ONNX Runtime are C++ on files from anywhere, so this module only runs in a
child process (`pipeline.text.formats.child`), whose limit of time is one of each page here.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import signal
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from pipeline.errors import InputError
from pipeline.text.formats.page_columns import Line

_DOTS_AN_INCH, _POINTS_AN_INCH = 200, 72
_MOST_PX = 2400  # of the longer side of a rendered page
_DETECTION_PX = 1280  # of the longer side of what lines are looked for in
_LEAST_SCORE = 0.6  # of a line, below which it is no text
_BASELINE = 0.22  # how far above the lower edge of a line's box its letters stand, as a part of the box's height
_ALIKE = 0.3  # boxes whose heights differ by less, as a part of the usual one, have letters of the same size
_COVERED = 0.5  # of a page, by an image, which makes it a scan
_MOST_IMAGES = 100
_SHORT = 3  # characters, which may stand in a box that is higher than wide
_PAGE_S = 60
_PARENT = os.getppid()


def lines_of(page: pypdfium2.PdfPage, number: int) -> list[Line]:
    """The lines of text in the picture of a page, in points from its lower left corner; none if it shows no text, or
    cannot be drawn.

    Raises `InputError` ``bad_document`` if it can be drawn, but reading it fails.
    """
    _begin_page()
    width, height = page.get_size()
    scale = min(_DOTS_AN_INCH / _POINTS_AN_INCH, _MOST_PX / max(width, height, 1.0))
    try:
        picture = page.render(scale=scale).to_numpy()  # pyright: ignore[reportArgumentType]
    except (pypdfium2.PdfiumError, ValueError):
        return []
    if picture.size == 0 or picture.min() == picture.max():
        return []  # an empty page
    try:
        found = _reader()(picture)
    except MemoryError:
        raise
    except Exception as reason:
        what = f"page {number} of the PDF is a picture that OCR cannot read ({type(reason).__name__})"
        raise InputError("bad_document", what) from reason
    texts = getattr(found, "txts", None)  # another kind of answer has none: no line was found
    if found.boxes is None or not texts:
        return []
    boxes = [[(float(x), float(y)) for x, y in box] for box in found.boxes]
    return lines_of_boxes(boxes, texts, scale, height)


def is_picture(page: pypdfium2.PdfPage) -> bool:
    """Whether one image covers most of a page, as in a scan."""
    whole = page.get_width() * page.get_height()
    images = page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=2)
    for image in itertools.islice(images, _MOST_IMAGES):
        try:
            left, bottom, right, top = image.get_bounds()
        except pypdfium2.PdfiumError:  # it is placed nowhere
            continue
        if (right - left) * (top - bottom) > _COVERED * whole:
            return True
    return False


def lines_of_boxes(
    boxes: Sequence[Sequence[tuple[float, float]]], texts: Sequence[str], scale: float, page_height: float
) -> list[Line]:
    """Lines from the corners of their boxes, in pixels from the upper left corner, at ``scale`` pixels a point.

    The boxes of lines of one size differ in height by what letters they have, so their size is the usual one of the
    page unless they differ by more. Boxes that stand upright, as of text at the margin that is turned, are left out.
    """
    found = []
    for box, text in zip(boxes, texts, strict=True):
        kept = " ".join(text.replace("\0", "").split())
        horizontal, vertical = [x / scale for x, _ in box], [y / scale for _, y in box]
        if kept and math.isfinite(sum(horizontal) + sum(vertical)):
            # The mean of the two corners of each side, since the line may be turned a little.
            left, right = (sum(sorted(horizontal)[part]) / 2 for part in (slice(2), slice(2, 4)))
            upper, lower = (sum(sorted(vertical)[part]) / 2 for part in (slice(2), slice(2, 4)))
            if len(kept) < _SHORT or lower - upper < 2 * (right - left):
                found.append((kept, left, right, upper, lower))
    usual = statistics.median(lower - upper for *_, upper, lower in found) if found else 1.0
    lines = []
    for text, left, right, upper, lower in found:
        size = usual if abs(lower - upper - usual) < _ALIKE * usual else lower - upper
        lines.append(Line(text, left, right, page_height - lower + _BASELINE * size, max(size, 1.0)))
    return lines


def _begin_page() -> None:
    """Give the page its own time, if there is a limit; end this process if nobody waits for its answer any more."""
    if signal.alarm(0):
        signal.alarm(_PAGE_S)
        if os.getppid() != _PARENT:
            sys.exit("the process that asked has ended")


@functools.cache
def _reader() -> Any:
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.text_score": _LEAST_SCORE,
            "Global.max_side_len": _MOST_PX,
            # It tells lines that are upside down from others, and is wrong more often than there are such lines.
            "Global.use_cls": False,
            "Det.limit_type": "max",
            "Det.limit_side_len": _DETECTION_PX,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
