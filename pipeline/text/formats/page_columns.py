"""Columns of a printed page: cuts the page between them, and gives their lines in reading order.

The way is the recursive X-Y cut (Nagy and Seth 1984): a page is cut between its columns where nothing crosses, or else
at its largest vertical gap, and so are the parts.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_GUTTER = 0.7  # least width of the space between columns, in sizes of a line
_COLUMN = 6.0  # least width of a line in a column, so that the columns of a table are none
_COLUMN_LINES = 3
_SAME_LINE = 0.4


@dataclass(frozen=True)
class Line:
    """A line, or a piece of one. ``y`` is its baseline, ``size`` the height from descenders to ascenders."""

    text: str
    left: float
    right: float
    y: float
    size: float


@dataclass(frozen=True, eq=False)
class Region:
    """A column of a page, or a part of it, whose lines are in reading order."""

    lines: Sequence[Line]
    left: float
    right: float

    @property
    def width(self) -> float:
        return self.right - self.left


def regions(pieces: Sequence[Line]) -> list[Region]:
    """The columns of a page in reading order, from the pieces of its lines in any order."""
    found: list[Region] = []
    open_parts = [(list(pieces), True)] if pieces else []
    waiting: list[Line] = []  # lines of a column that was cut at a gap, and goes on
    while open_parts:
        part, is_end = open_parts.pop()
        columns = _columns(part)
        if columns is None and (halves := _halves(part)) is not None:
            open_parts += [(halves[1], is_end), (halves[0], False)]
            continue
        if columns is None:
            waiting += _rows(part)
        if waiting and (columns is not None or is_end):
            found.append(_region(waiting))
            waiting = []
        if columns is not None:
            open_parts += [(columns[1], True), (columns[0], True)]
    if waiting:
        found.append(_region(waiting))
    return found


def _region(lines: list[Line]) -> Region:
    lefts, rights = sorted(line.left for line in lines), sorted(line.right for line in lines)
    # Not the outermost: one line may stick out.
    return Region(list(lines), lefts[len(lefts) // 10], rights[-1 - len(rights) // 10])


def _columns(pieces: list[Line]) -> tuple[list[Line], list[Line]] | None:
    """The pieces left and right of the widest space between two columns; None if there is none."""
    if len(pieces) < 2 * _COLUMN_LINES:
        return None
    size = statistics.median(piece.size for piece in pieces)
    by_left = sorted(pieces, key=lambda piece: piece.left)
    gaps, reach = [], by_left[0].right
    for index in range(1, len(by_left)):
        gap = by_left[index].left - reach
        if gap > _GUTTER * size:
            gaps.append((gap, index))
        reach = max(reach, by_left[index].right)
    for _, index in sorted(gaps, reverse=True)[:8]:
        one, other = by_left[:index], by_left[index:]
        if _is_column(one, size) and _is_column(other, size) and _beside(one, other):
            return one, other
    return None


def _is_column(pieces: list[Line], size: float) -> bool:
    if len(pieces) < _COLUMN_LINES:
        return False
    return statistics.median(piece.right - piece.left for piece in pieces) > _COLUMN * size


def _beside(one: list[Line], other: list[Line]) -> bool:
    """Whether two sets of lines stand beside each other for at least half the height of the lower one."""
    tops, bottoms = [max(piece.y for piece in part) for part in (one, other)], []
    bottoms = [min(piece.y for piece in part) for part in (one, other)]
    common = min(tops) - max(bottoms)
    return common > 0.5 * min(top - bottom for top, bottom in zip(tops, bottoms, strict=True))


def _halves(pieces: list[Line]) -> tuple[list[Line], list[Line]] | None:
    """The pieces above and below the largest vertical gap, if several stand in one row; None if none do."""
    rows = _grouped(pieces)
    if len(rows) < 2 or all(len(row) == 1 for row in rows):
        return None
    gaps = [
        min(piece.y for piece in upper) - max(piece.y for piece in lower) for upper, lower in itertools.pairwise(rows)
    ]
    # Of equal gaps, to a tenth of a point, the first.
    cut = max(range(len(gaps)), key=lambda index: (round(gaps[index], 1), -index)) + 1
    return [piece for row in rows[:cut] for piece in row], [piece for row in rows[cut:] for piece in row]


def _rows(pieces: list[Line]) -> list[Line]:
    """The pieces as whole lines from top to bottom; pieces of a line are joined by a space."""
    lines = []
    for row in _grouped(pieces):
        row = sorted(row, key=lambda piece: piece.left)
        main = max(row, key=lambda piece: piece.right - piece.left)
        text = " ".join(piece.text for piece in row)
        lines.append(Line(text, row[0].left, max(piece.right for piece in row), main.y, main.size))
    return lines


def _grouped(pieces: list[Line]) -> list[list[Line]]:
    """The pieces by rows, from top to bottom."""
    rows: list[list[Line]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.y, piece.left)):
        if rows and rows[-1][0].y - piece.y < _SAME_LINE * max(piece.size, rows[-1][0].size):
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return rows
