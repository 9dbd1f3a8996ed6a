"""The readers of all formats, by name. Each is imported when it is first used, since few runs have all formats."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.text.formats.document import Document

Reader = Callable[[bytes], Document]


def _srt() -> Reader:
    from pipeline.text.formats import srt

    return srt.read


def _vtt() -> Reader:
    from pipeline.text.formats import webvtt

    return webvtt.read


def _whisper() -> Reader:
    from pipeline.text.formats import whisper

    return whisper.read


def _markdown() -> Reader:
    from pipeline.text.formats import markdown

    return markdown.read


def _html() -> Reader:
    from pipeline.text.formats import webpage

    return webpage.read


def _docx() -> Reader:
    from pipeline.text.formats import docx

    return docx.read


def _epub() -> Reader:
    from pipeline.text.formats import epub

    return epub.read


def _pdf() -> Reader:
    from pipeline.text.formats import pdf

    return pdf.read


#: Pure Python on text: these read in the worker itself.
READERS_HERE: dict[str, Callable[[], Reader]] = {"srt": _srt, "vtt": _vtt, "whisper": _whisper}

#: C, C++, zip files, or time that grows faster than the text: these read in a child process.
READERS_IN_CHILD: dict[str, Callable[[], Reader]] = {
    "markdown": _markdown,
    "html": _html,
    "docx": _docx,
    "epub": _epub,
    "pdf": _pdf,
}
