"""The readers of all formats, by name. Each is imported when it is first used, since few runs have all formats."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from pipeline.text.formats.document import Document

Reader = Callable[[bytes], Document]

#: The reader of PDF files that also reads pictures of text, and the format of documents of which it has read some.
WITH_OCR = "pdf-ocr"


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


def _pdf_with_ocr() -> Reader:
    from pipeline.text.formats import pdf

    return pdf.read_with_ocr


def missing_for_ocr() -> str | None:
    """What is to be installed before pictures of text can be read; None if all is there."""
    lacking = [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return f"ocr needs the Python package {lacking[0]}: pip install 'parquetry[ocr]'"


#: Pure Python on text: these read in the worker itself.
READERS_HERE: dict[str, Callable[[], Reader]] = {"srt": _srt, "vtt": _vtt, "whisper": _whisper}

#: C, C++, zip files, or time that grows faster than the text: these read in a child process.
READERS_IN_CHILD: dict[str, Callable[[], Reader]] = {
    "markdown": _markdown,
    "html": _html,
    "docx": _docx,
    "epub": _epub,
    "pdf": _pdf,
    WITH_OCR: _pdf_with_ocr,
}
