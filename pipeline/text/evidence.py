"""What a document's format says about its sentences: evidence for paragraphs, breaks, times and pages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.text.formats.document import Document
from pipeline.text.graphemes import after_cluster
from pipeline.text.inputs import split_with_odds

#: Evidence, with its weight, from which on a break begins a sentence, even without a stop before it.
_BEGINS_SENTENCE = 2.0
_LINE_END = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")

#: Prepared columns, with a value for each sentence. They are null for documents to which they do not apply.
#: ``shifts``: what is added to the log-odds of the tagger. ``at_breaks``: whether the sentence begins at a line end or
#: at a break of its format. ``first_s`` and ``last_s``: the first second of the cue in which it begins, and the last
#: one of the cue in which it ends. ``page_numbers``: the page on which it begins.
SENTENCE_FIELDS = {
    "shifts": pa.large_list(pa.float32()),
    "at_breaks": pa.large_list(pa.int8()),
    "first_s": pa.large_list(pa.float64()),
    "last_s": pa.large_list(pa.float64()),
    "page_numbers": pa.large_list(pa.int32()),
}


def sentences_of(document: Document, max_chars: int, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The sentences (s, 2) of `split_with_odds`, cut also at the breaks that are evident, and in text without
    punctuation at all breaks; and their odds. ``weights``: a factor for each kind of evidence
    (`Document.evidence_of`)."""
    sentences, odds = split_with_odds(document.text, max_chars, document.breaks)
    if not len(document.breaks):
        return sentences, odds
    evident = np.array(document.evidence) * weights[document.evidence_of] >= _BEGINS_SENTENCE
    places = np.array(document.breaks, np.int64)[evident]
    is_whole = [after_cluster(document.text, int(place)) == place for place in places]
    edges = np.union1d(sentences[:, 0], places[np.array(is_whole, bool)])
    found = np.full(len(edges), np.nan, np.float32)
    found[np.searchsorted(edges, sentences[:, 0])] = odds
    return np.stack([edges, np.append(edges[1:], len(document.text))], axis=1), found


def sentence_columns(
    document: Document, sentences: np.ndarray, weights: dict[str, float], *, with_breaks: bool
) -> dict[str, Any]:
    """The columns of `SENTENCE_FIELDS` for a document with the given sentences (s, 2)."""
    starts = sentences[:, 0]
    breaks = np.array(document.breaks, np.int64)
    columns: dict[str, Any] = dict.fromkeys(SENTENCE_FIELDS)
    if not document.is_plain:
        columns["shifts"] = _shifts(document, starts, breaks) * np.float32(weights[document.evidence_of])
    if with_breaks:
        is_at_break = np.isin(starts, breaks) | _after_line_ends(document.text, starts)
        columns["at_breaks"] = is_at_break.astype(np.int8)
    if document.cues:
        places = np.array([place for place, _, _ in document.cues])
        times = np.array([times for _, *times in document.cues])
        ends = np.maximum(sentences[:, 1] - 1, 0)
        columns["first_s"] = times[np.searchsorted(places, starts, side="right") - 1, 0]
        columns["last_s"] = times[np.searchsorted(places, ends, side="right") - 1, 1]
    if document.pages:
        places = np.array([place for place, _ in document.pages])
        numbers = np.array([number for _, number in document.pages], np.int32)
        columns["page_numbers"] = numbers[np.searchsorted(places, starts, side="right") - 1]
    return columns


def _shifts(document: Document, starts: np.ndarray, breaks: np.ndarray) -> np.ndarray:
    shifts = np.full(len(starts), document.evidence_elsewhere, np.float32)
    if len(breaks):
        places = np.minimum(np.searchsorted(breaks, starts), len(breaks) - 1)
        at_break = breaks[places] == starts
        shifts[at_break] = np.array(document.evidence, np.float32)[places[at_break]]
    shifts[0] = 0
    return shifts


def _after_line_ends(text: str, starts: np.ndarray) -> np.ndarray:
    """Which sentences have a line end in the white space before them, (s,) bool; the first begins the text."""
    found = np.zeros(len(starts), bool)
    for index, start in enumerate(starts.tolist()):
        place = start
        while place > 0 and text[place - 1].isspace() and not found[index]:
            place -= 1
            found[index] = _LINE_END.match(text[place]) is not None
    found[0] = True
    return found
