"""SubRip subtitles (.srt): numbered cues, each with a line of times and lines of text, and blank lines between."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.errors import InputError
from pipeline.text.encodings import decode_text
from pipeline.text.formats.document import Document, document_of_cues

NAME = "srt"

_CLOCK = r"(-?)(\d{1,4}):(\d{1,3}):(\d{1,3})(?:[,.](\d{1,9}))?"
_TIMES = re.compile(rf"^[ \t]*{_CLOCK}[ \t]*-->[ \t]*{_CLOCK}(?:[ \t].*)?$", re.MULTILINE)
_NUMBER_LINE = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]*\n*\Z")
# The tags that players know, and the placement codes of Advanced SubStation Alpha. Any other "<" is text.
_TAG = re.compile(r"</?(?:i|b|u|s|font|c)(?:[ \t][^<>\n]{0,200})?>|\{\\[^{}\n]{1,100}\}", re.IGNORECASE)


def read(data: bytes) -> Document:
    """Raises `InputError`: what `decode_text` and `document_of_cues` raise, and ``bad_document`` without any cue."""
    text, encoding = decode_text(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _TIMES.search(text) is None:
        raise InputError("bad_document", "the subtitles have no line with two times and an arrow between")
    return document_of_cues(_cues(text), form=NAME, encoding=encoding)


def _cues(text: str) -> Iterator[tuple[float, float, str]]:
    found = list(_TIMES.finditer(text))
    for match, following in zip(found, [*found[1:], None], strict=True):
        body = text[match.end() : len(text) if following is None else following.start()]
        if following is not None:
            body = _NUMBER_LINE.sub("", body)  # the number of the next cue
        first, last = _seconds(match.groups()[:5]), _seconds(match.groups()[5:])
        yield first, last, _TAG.sub("", body)


def _seconds(parts: tuple[str | None, ...]) -> float:
    sign, hours, minutes, seconds, fraction = parts
    value = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")
    # "-0" would not be seen as negative.
    return -max(value, 1e-9) if sign else value
