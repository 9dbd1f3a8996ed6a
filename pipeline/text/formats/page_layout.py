"""Lines of printed pages: their reading order, running heads, and where their geometry says that a paragraph begins.

Coordinates are in points, from the lower left corner of the page, where text runs from left to right.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import InputError
from pipeline.text.encodings import checked_text
from pipeline.text.formats.document import Document
from pipeline.text.formats.page_columns import Line, Region, regions

#: Evidence at a line end, in log-odds. What speaks for or against a paragraph is added up, between -6 and 6.
_USUAL, _LARGE_GAP, _INDENT, _SHORT_LINE, _FULL_LINE, _OTHER_SIZE, _BULLET = -2.0, 5.0, 4.0, 2.5, -1.5, 4.0, 2.0
_MOST = 6.0
_EDGE = 0.12  # part of the height of a page, above and below, where heads and feet stand
_LEAST_REPEATS = 3
_PITCH = 1.2
_NUMBER = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlcdm]{1,8}", re.IGNORECASE)
_BULLETS = "•‣◦▪●○■□–—*-·"
_HYPHENS = "-\u2010\u00ad"


@dataclass(frozen=True)
class PrintedPage:
    """A page: its height, and the pieces of its lines, as they were printed."""

    number: int
    height: float
    lines: Sequence[Line]
    is_picture: bool = False
    """Whether the lines were read from a picture of the page."""


@dataclass(frozen=True)
class _Placed:
    """A line in reading order, with the region of its column."""

    line: Line
    page: int
    region: Region


def document_of_pages(pages: Iterable[PrintedPage], *, form: str, ocr: bool = False) -> Document:
    """A document of lines, with a line end between two. Words that are hyphenated at the end of a line are joined.

    Running heads, feet and page numbers are left out. Raises `InputError` ``no_text`` if no page has text, such as
    that of a scan. ``ocr``: whether pictures of text were read, too.
    """
    placed = _in_order(_without_running_heads(list(pages)))
    if not placed:
        reason = "no page has text: it may be a scan, which is read with --ocr only"
        raise InputError("no_text", "no page has text, nor a picture in which OCR finds any" if ocr else reason)
    pieces: list[str] = [placed[0].line.text]
    starts, evidence, page_starts = [], [], [(0, placed[0].page)]
    position = len(pieces[0])
    pitch = _usual_pitch(placed)
    for index in range(1, len(placed)):
        before, line = placed[index - 1], placed[index]
        joined = _joined(pieces[-1], line.line.text)
        if joined is None:
            pieces.append("\n")
            position += 1
            starts.append(position)
            evidence.append(_evidence(placed, index, pitch))
        else:
            position += len(joined) - len(pieces[-1])
            pieces[-1] = joined
        if line.page != before.page:
            page_starts.append((position, line.page))
        pieces.append(line.line.text)
        position += len(line.line.text)
    return Document(
        format=form,
        text=checked_text("".join(pieces)),
        encoding=None,
        breaks=starts,
        evidence=evidence,
        evidence_elsewhere=-_MOST,  # no paragraph begins in the middle of a line
        pages=page_starts,
    )


def _without_running_heads(pages: list[PrintedPage]) -> list[PrintedPage]:
    """The pages without lines near their upper and lower edge that come again on other pages at the same height, if
    numbers do not count: on 3 pages at least, or on both of a document of two."""

    def keys(page: PrintedPage, line: Line) -> set[tuple[str, int]]:
        if _EDGE * page.height < line.y < (1 - _EDGE) * page.height:
            return set()
        text = _NUMBER.sub("#", line.text)
        text = "#" if _ROMAN.fullmatch(text) else text
        place = int(line.y // 4)
        return {(text, place), (text, place + 1)}  # two grids of 4 points, so that neighbours share one

    counts = Counter(key for page in pages for key in set().union(*(keys(page, line) for line in page.lines)))
    least = min(_LEAST_REPEATS, max(2, len(pages)))
    return [
        replace(page, lines=[line for line in page.lines if all(counts[key] < least for key in keys(page, line))])
        for page in pages
    ]


def _in_order(pages: Iterable[PrintedPage]) -> list[_Placed]:
    return [
        _Placed(line, page.number, region) for page in pages for region in regions(page.lines) for line in region.lines
    ]


def _joined(before: str, after: str) -> str | None:
    """The end of a line that a hyphen joins to the next: without the hyphen, or with it if it belongs to the word, as
    in "Anglo-Saxon". None if no hyphen joins the two lines."""
    if len(before) < 2 or before[-1] not in _HYPHENS or not before[-2].isalpha() or not after[:1].isalpha():
        return None
    return before[:-1] if after[0].islower() or before[-1] == "\u00ad" else before


def _usual_pitch(placed: Sequence[_Placed]) -> float:
    """The usual distance of two lines inside of a paragraph, as a multiple of their size: the lower quartile, since in
    some documents most line ends are ends of paragraphs."""
    found = [
        (one.line.y - other.line.y) / other.line.size
        for one, other in itertools.pairwise(placed)
        if one.region is other.region and one.line.y > other.line.y
    ]
    return statistics.quantiles(found, n=4)[0] if len(found) > 1 else _PITCH


def _evidence(placed: Sequence[_Placed], index: int, pitch: float) -> float:
    """The evidence that a paragraph begins with the line of this index, and not a line of the paragraph before."""
    before, here = placed[index - 1], placed[index]
    after = placed[index + 1] if index + 1 < len(placed) else None
    a, b, size = before.line, here.line, here.line.size
    found = _USUAL
    if before.region is here.region and (a.y - b.y) / size > 1.25 * pitch:
        found += _LARGE_GAP
    room = before.region.right - a.right
    word = 0.45 * size * (len(b.text.partition(" ")[0]) + 1)
    found += _SHORT_LINE if room > max(word, 0.05 * before.region.width) else _FULL_LINE
    indent = b.left - here.region.left
    is_alone = after is None or after.region is not here.region or after.line.left < b.left - 0.4 * size
    if 0.5 * size < indent < 6 * size and is_alone and not _same_left(before, here):
        found += _INDENT
    if abs(a.size - b.size) > 0.08 * max(a.size, b.size):
        found += _OTHER_SIZE
    if b.text[0] in _BULLETS and b.text[1:2].isspace():
        found += _BULLET
    return max(-_MOST, min(_MOST, found))


def _same_left(before: _Placed, here: _Placed) -> bool:
    """Whether both lines are indented by as much, as in a block that is set in."""
    if before.region is not here.region:
        return False
    return abs(before.line.left - here.line.left) < 0.3 * here.line.size
