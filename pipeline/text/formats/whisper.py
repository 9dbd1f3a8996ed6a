"""Transcripts that Whisper's tools write as JSON: openai-whisper, faster-whisper and WhisperX.

All have a list of segments with ``start`` and ``end`` in seconds and ``text``: as the member ``segments`` of an object,
or, by scripts around faster-whisper, as the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.errors import InputError
from pipeline.text.encodings import decode_text
from pipeline.text.formats.document import Document, document_of_cues

NAME = "whisper"


def read(data: bytes) -> Document:
    """Raises `InputError`: what `decode_text` and `document_of_cues` raise, ``bad_document`` for what is no JSON, and
    ``other_data`` for JSON that is no transcript."""
    text, encoding = decode_text(data)
    segments = segments_of(text)
    if segments is None:
        code = "other_data" if _is_json(text) else "bad_document"
        raise InputError(code, "the JSON file is no transcript: it has no segments with start, end and text")
    return document_of_cues(_cues(segments), form=NAME, encoding=encoding)


def segments_of(text: str) -> list[dict[str, Any]] | None:
    """The segments of a transcript; None if the text is no JSON, or no transcript."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    segments = found.get("segments") if isinstance(found, dict) else found
    if not isinstance(segments, list) or not segments:
        return None
    is_transcript = all(isinstance(item, dict) and {"start", "end", "text"} <= item.keys() for item in segments)
    return segments if is_transcript else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _cues(segments: list[dict[str, Any]]) -> Iterator[tuple[float, float, str]]:
    for number, item in enumerate(segments, 1):
        first, last, text = _number(item["start"]), _number(item["end"]), item["text"]
        if first is None or last is None or not isinstance(text, str):
            raise InputError("bad_document", f"segment {number} of the transcript lacks a time or a text")
        yield first, last, text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e15 else float("inf")  # an integer may be too large for a float
