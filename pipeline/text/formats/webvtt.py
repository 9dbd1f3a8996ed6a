"""WebVTT captions (.vtt), as the W3C describes them: https://www.w3.org/TR/webvtt1/."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from pipeline.errors import InputError
from pipeline.text.encodings import decode_text
from pipeline.text.formats.document import Document, document_of_cues

NAME = "vtt"

_HEADER = re.compile(r"WEBVTT(?=[ \t\n]|\Z)")
_CLOCK = r"(-?)(?:(\d{1,6}):)?(\d{1,3}):(\d{1,3})(?:\.(\d{1,9}))?"
_TIMES = re.compile(rf"[ \t]*{_CLOCK}[ \t]*-->[ \t]*{_CLOCK}(?:[ \t].*)?")
_OTHER_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?=[ \t\n]|\Z)")
_TAG = re.compile(r"<[^<>\n]{0,500}>")


def read(data: bytes) -> Document:
    """Text of all cues, without their settings and tags. Notes, styles and regions are no text.

    Raises `InputError`: what `decode_text` and `document_of_cues` raise, and ``bad_document`` without the header or
    for a line of times that cannot be read.
    """
    text, encoding = decode_text(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _HEADER.match(text) is None:
        raise InputError("bad_document", "the captions do not begin with WEBVTT")
    return document_of_cues(_cues(text), form=NAME, encoding=encoding)


def _cues(text: str) -> Iterator[tuple[float, float, str]]:
    for block in re.split(r"\n{2,}", text)[1:] if "\n\n" in text else []:
        lines = block.strip("\n").split("\n")
        if not lines or (_OTHER_BLOCK.match(block) is not None and "-->" not in lines[0]):
            continue
        # A cue may have an identifier before its times.
        place = next((index for index, line in enumerate(lines[:2]) if "-->" in line), None)
        if place is None:
            continue
        match = _TIMES.fullmatch(lines[place])
        if match is None:
            raise InputError("bad_document", "the captions have a line of times that cannot be read")
        body = _TAG.sub("", "\n".join(lines[place + 1 :]))
        yield _seconds(match.groups()[:5]), _seconds(match.groups()[5:]), html.unescape(body)


def _seconds(parts: tuple[str | None, ...]) -> float:
    sign, hours, minutes, seconds, fraction = parts
    value = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction or 0}")
    # "-0" would not be seen as negative.
    return -max(value, 1e-9) if sign else value
