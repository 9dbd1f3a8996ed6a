"""What a format gives of a document: its text, and what it says about paragraphs, times and pages."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.text.encodings import checked_text, is_unicode

#: The name of a text file without any format. It is read as it is.
PLAIN = "plain"

#: Evidence for a paragraph where a block of markup begins: the document itself says so.
BLOCK_EVIDENCE = 8.0

_PAUSE_FLOOR_S = 0.1
_LEAST_PAUSE_EVIDENCE, _MOST_PAUSE_EVIDENCE = -2.0, 4.0
_LEAST_CUES = 3
_BLANK_LINES = re.compile(r"(?:\r\n|[\n\r\x85\u2028\u2029\f\v])(?:\s*(?:\r\n|[\n\r\x85\u2028\u2029\f\v]))?")


@dataclass(frozen=True, kw_only=True)
class Document:
    """The text of a file, into which all offsets point, in code points.

    A *break* is a place where a line of a page, a block of markup or a cue begins. Evidence is in log-odds (nats): so
    much is added to the log-odds of the tagger that a paragraph begins there.
    """

    format: str
    """A key of `pipeline.text.formats.reading.READERS`, or `PLAIN`."""
    text: str
    encoding: str | None
    breaks: Sequence[int] = ()
    """Where a paragraph may begin, rising, all above 0."""
    evidence: Sequence[float] = ()
    """For each break, the evidence that a paragraph begins there."""
    evidence_elsewhere: float = 0.0
    """The evidence for a paragraph that begins at no break."""
    evidence_of: str = "layout"
    """What the evidence comes from: ``layout`` (pages and blocks) or ``pauses``. Each has a weight of its own."""
    cues: Sequence[tuple[int, float, float]] = ()
    """For each cue of a transcript: where its text begins, and its first and last second."""
    pages: Sequence[tuple[int, int]] = field(default=())
    """For each page with text: where its text begins, and its number from 1."""

    def to_plain(self) -> dict[str, Any]:
        """The document as values for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def is_plain(self) -> bool:
        return self.format == PLAIN


def document_of_blocks(blocks: Iterable[str], *, form: str, encoding: str | None) -> Document:
    """A document of blocks, such as headings, paragraphs, list items and cells, with a blank line between two.

    A block may have several lines; blank lines inside become line ends, so that a blank line always ends a block.
    Raises `InputError` ``no_text`` if all blocks are blank.
    """
    kept = [_BLANK_LINES.sub("\n", block.replace("\0", "")).strip() for block in blocks]
    kept = [block for block in kept if block]
    if not kept:
        raise InputError("no_text", "the document has no text")
    starts = list(itertools.accumulate(len(block) + 2 for block in kept[:-1]))
    return Document(
        format=form,
        text=checked_text("\n\n".join(kept)),
        encoding=encoding,
        breaks=starts,
        evidence=[BLOCK_EVIDENCE] * len(starts),
    )


def document_of_cues(cues: Iterable[tuple[float, float, str]], *, form: str, encoding: str | None) -> Document:
    """A document of cues (first second, last second, text), which are joined by one space.

    White space inside a cue becomes one space. Cues without text only count as pauses. The evidence at a break is that
    of `pause_evidence`. Raises `InputError`: ``bad_document`` for times that are negative, no numbers or end before
    they begin; ``no_text`` if no cue has text; ``not_text``.
    """
    pieces, places, position = [], [], 0
    for number, (first, last, text) in enumerate(cues, 1):
        if not 0 <= first <= last < float("inf"):
            raise InputError("bad_document", f"cue {number} has times that are negative, no numbers or in wrong order")
        if not is_unicode(text):
            raise InputError("not_text", f"cue {number} has half a surrogate pair")
        text = " ".join(text.split())
        if text:
            pieces.append(text)
            places.append((position, float(first), float(last)))
            position += len(text) + 1
    if not pieces:
        raise InputError("no_text", "the transcript has no text")
    evidence, elsewhere = pause_evidence(np.array([place[1:] for place in places]))
    return Document(
        format=form,
        text=checked_text(" ".join(pieces)),
        encoding=encoding,
        breaks=[start for start, _, _ in places[1:]],
        evidence=evidence.tolist(),
        evidence_elsewhere=elsewhere,
        evidence_of="pauses",
        cues=places,
    )


def pause_evidence(times: np.ndarray) -> tuple[np.ndarray, float]:
    """Evidence from the pauses between cues: for each cue but the first, (c - 1,), and for a place inside of a cue.

    ``times`` (c, 2) are first and last seconds. A pause of p seconds, where the usual one (the median of the document)
    has m, gives ln((p + 0.1) / (m + 0.1)), between -2 and 4: the longer the pause, the more; as much as usual, nothing.
    Inside of a cue the pause is 0. With fewer than 3 cues nothing is usual, and the evidence is 0.
    """
    pauses = np.maximum(times[1:, 0] - np.maximum.accumulate(times[:-1, 1]), 0.0) if len(times) > 1 else np.empty(0)
    if len(times) < _LEAST_CUES:
        return np.zeros(len(pauses)), 0.0
    usual = float(np.median(pauses)) + _PAUSE_FLOOR_S
    found = np.log((np.append(pauses, 0.0) + _PAUSE_FLOOR_S) / usual)
    found = np.clip(found, _LEAST_PAUSE_EVIDENCE, _MOST_PAUSE_EVIDENCE)
    return found[:-1], float(found[-1])
