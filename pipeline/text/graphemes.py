"""Where a text may be cut: between characters as readers see them, which are extended grapheme clusters (UAX #29).

A cluster can be many code points: a letter and its accents, a syllable of Hangul, a flag, a family of emoji. The
library `regex` knows them. Its search for clusters takes time that grows with the square of a run of flags, so it gets
short pieces here; every function takes time that grows with what it looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex

_SPACE = r"\s\x1c-\x1f"  # white space as `str.isspace` has it
_CONTINUES = r"\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}"
_CLUSTER = regex.compile(r"\X")
_REST = regex.compile(rf"(?:[{_CONTINUES}]++[{_SPACE}]*+)++")
_MARKS = regex.compile(rf"[{_CONTINUES}]++")
_SPACES = regex.compile(rf"[{_SPACE}]++")
# Searched from the end: a code point that may begin a piece; one that does after white space; and one before which
# there is a boundary whatever stands further before it.
_BEGIN = regex.compile(rf"(?r)[^{_SPACE}{_CONTINUES}]")
_WORD = regex.compile(rf"(?r)(?<=[{_SPACE}])[^{_SPACE}{_CONTINUES}]")
_APART = regex.compile(r"(?r)(?<=\p{GCB=Other})\p{GCB=Other}")
_PIECE = 256


def after_cluster(text: str, place: int) -> int:
    """The end of the cluster that ``place`` is inside of, and of the white space behind it; ``place`` if it is between
    two. The code point before ``place`` is a stop, a closing mark or white space."""
    if text[place : place + 1] < "\u0300":
        return place
    rest = _REST.match(text, place)
    return place if rest is None else rest.end()


def after_clusters(text: str, places: Sequence[int]) -> list[int]:
    """`after_cluster` of rising places at which no white space stands. What lies inside of a cluster that an earlier
    place is inside of is not looked at again, so the time does not grow with the square of a run of marks."""
    found: list[int] = []
    for place in places:
        found.append(found[-1] if found and place < found[-1] else after_cluster(text, place))
    return found


def last_word(text: str, start: int, stop: int) -> int | None:
    """The last place in (``start``, ``stop``] where a word begins after white space; None if there is none."""
    found = _WORD.search(text, start + 1, stop + 1)
    return None if found is None else found.start()


def last_boundary(text: str, start: int, stop: int) -> int | None:
    """The last place in (``start``, ``stop``] between two clusters that no white space and no mark follows.

    None if there is none. There must be a boundary at ``start``, and ``stop`` must be below the length of the text.
    """
    while found := _BEGIN.search(text, start + 1, stop + 1):
        stop = found.start()
        apart = _APART.search(text, start + 1, stop + 1)
        first = start if apart is None else apart.start()
        ends = [end for end in _ends(text, first, stop) if _BEGIN.match(text, end, end + 1)]
        if ends or first > start:
            return ends[-1] if ends else first
        stop = first
    return None


def end_of_space(text: str, place: int, most_marks: int) -> int:
    """The end of the white space at ``place``, and of at most so many marks on its last code point."""
    found = _SPACES.match(text, place)
    place = place if found is None else found.end()
    marks = _MARKS.match(text, place, place + most_marks)
    return place if marks is None else marks.end()


def _ends(text: str, first: int, stop: int) -> Iterator[int]:
    """The ends, up to ``stop``, of the clusters from ``first`` on, where there must be a boundary."""
    size = _PIECE
    while first < stop:
        piece = text[first : min(first + size, stop + 1)]
        # The last cluster of a piece may go on behind it.
        ends = [found.end() for found in _CLUSTER.finditer(piece)][:-1]
        yield from (first + end for end in ends)
        if first + len(piece) > stop:
            return
        first, size = (first + ends[-1], _PIECE) if ends else (first, 2 * size)
