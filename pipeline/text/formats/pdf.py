"""PDF files, by PDFium: their text with its geometry. Pages that are pictures of text are read on request (OCR).

PDFium is C++ on files from anywhere, so this module only runs in a child process (`pipeline.text.formats.child`).
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from pipeline.errors import InputError
from pipeline.text.formats.document import Document
from pipeline.text.formats.page_columns import Line
from pipeline.text.formats.page_layout import PrintedPage, document_of_pages
from pipeline.text.formats.readers import WITH_OCR

NAME = "pdf"

MAX_PAGES = 10_000
_MAX_CHARS = 20_000_000
_ENCRYPTED = (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY)
_DIRECTION_CHARS = 200
_STAMP_CHARS = 300  # of a page, up to which a scan is read by OCR nevertheless
_NO_CHARACTERS = frozenset((*range(32), 127, 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)))


def read_with_ocr(data: bytes) -> Document:
    """`read`; pages without text, and scans with little, are drawn and read by `pipeline.text.formats.scans`."""
    return read(data, ocr=True)


def read(data: bytes, *, ocr: bool = False) -> Document:
    """Raises `InputError`: ``bad_document``, ``encrypted`` (a password is needed), ``no_text``, ``too_long`` (more than
    10,000 pages or 20,000,000 characters)."""
    try:
        file = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as cause:
        if cause.err_code in _ENCRYPTED:
            raise InputError("encrypted", "the PDF is encrypted, and needs a password to be read") from cause
        raise InputError("bad_document", "the PDF is broken") from cause
    try:
        count = len(file)
        if count > MAX_PAGES:
            raise InputError("too_long", f"the PDF has {count} pages, more than {MAX_PAGES}")
        if not count:
            raise InputError("bad_document", "the PDF has no pages")
        pages = list(_pages(file, count, ocr=ocr))
        return document_of_pages(pages, form=WITH_OCR if any(page.is_picture for page in pages) else NAME, ocr=ocr)
    finally:
        file.close()


def _pages(file: pypdfium2.PdfDocument, count: int, *, ocr: bool) -> Iterator[PrintedPage]:
    left = _MAX_CHARS
    for index in range(count):
        try:
            page = file[index]
            text_page, box = page.get_textpage(), page.get_bbox()
        except pypdfium2.PdfiumError as cause:
            raise InputError("bad_document", f"page {index + 1} of the PDF is broken") from cause
        left -= max(0, pdfium.FPDFText_CountChars(text_page))
        if left < 0:
            raise InputError("too_long", f"the PDF has more than {_MAX_CHARS} characters")
        frame = _Frame(_direction(text_page), box)
        lines = list(_pieces(text_page, frame))
        text_page.close()
        printed = PrintedPage(index + 1, frame.height, lines)
        if ocr and (found := _lines_by_ocr(page, printed)):
            printed = PrintedPage(index + 1, page.get_height(), found, is_picture=True)
        page.close()
        yield printed


def _lines_by_ocr(page: pypdfium2.PdfPage, printed: PrintedPage) -> list[Line]:
    """The lines of a page without text, or of a scan with a little text, such as a stamp; none if OCR finds no more
    than the page says itself."""
    from pipeline.text.formats.scans import is_picture, lines_of

    size = sum(len(line.text) for line in printed.lines)
    if size > _STAMP_CHARS or (size and not is_picture(page)):
        return []
    found = lines_of(page, printed.number)
    return found if sum(len(line.text) for line in found) > size else []


def _direction(text_page: pypdfium2.PdfTextPage) -> int:
    """The direction in which most characters of a page are written, in quarter turns against the clock."""
    count = pdfium.FPDFText_CountChars(text_page)
    turns = Counter(
        round(-pdfium.FPDFText_GetCharAngle(text_page, index) / (math.pi / 2)) % 4  # PDFium counts with the clock
        for index in range(0, count, 1 + count // _DIRECTION_CHARS)
        if pdfium.FPDFText_IsGenerated(text_page, index) != 1
    )
    return turns.most_common(1)[0][0] if turns else 0


class _Frame:
    """Coordinates in which the text of a page runs from left to right: a page may be turned, and so may its text."""

    def __init__(self, turns: int, box: tuple[float, float, float, float]) -> None:
        self._cos, self._sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        self._x = self._y = 0.0
        corners = [self.turned(box[0], box[1]), self.turned(box[2], box[3])]
        self._x, self._y = (min(one, other) for one, other in zip(*corners, strict=True))
        self.height = abs(corners[1][1] - corners[0][1])

    def turned(self, x: float, y: float) -> tuple[float, float]:
        return x * self._cos + y * self._sin - self._x, y * self._cos - x * self._sin - self._y


def _pieces(text_page: pypdfium2.PdfTextPage, frame: _Frame) -> Iterator[Line]:
    """The pieces of lines in the order in which they are printed. A line is cut at gaps as wide as it is high."""
    piece = _Piece()
    box, x, y = pdfium.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
    for index in range(pdfium.FPDFText_CountChars(text_page)):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        if pdfium.FPDFText_IsHyphen(text_page, index) == 1:
            code = ord("-")
        character = " " if code in _NO_CHARACTERS or code > 0x10FFFF else chr(code)
        is_placed = pdfium.FPDFText_IsGenerated(text_page, index) != 1 and not character.isspace()
        if not is_placed or not pdfium.FPDFText_GetLooseCharBox(text_page, index, box):
            piece.add_space()
            continue
        pdfium.FPDFText_GetCharOrigin(text_page, index, x, y)
        one, other = frame.turned(box.left, box.bottom), frame.turned(box.right, box.top)
        left, right = sorted((one[0], other[0]))
        size = max(abs(other[1] - one[1]), 1.0)
        baseline = frame.turned(x.value, y.value)[1]
        if not math.isfinite(left + right + size + baseline):
            continue  # the page places it nowhere
        if not piece.takes(left, baseline, size):
            yield from piece.finished()
        piece.add(character, left, right, baseline, size)
    yield from piece.finished()


class _Piece:
    """The piece of a line that is being collected."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._text: list[str] = []
        self._left = self._right = self._y = self._size = 0.0

    def takes(self, left: float, y: float, size: float) -> bool:
        """Whether a character goes on with this piece."""
        if not self._text:
            return True
        is_near = -size < left - self._right < max(size, self._size)
        return is_near and abs(y - self._y) < 0.5 * max(size, self._size)

    def add(self, character: str, left: float, right: float, y: float, size: float) -> None:
        if not self._text:
            self._left, self._right, self._y, self._size = left, right, y, size
        self._text.append(character)
        self._left, self._right = min(self._left, left), max(self._right, right)
        if size > self._size:
            self._y, self._size = y, size

    def add_space(self) -> None:
        if self._text:
            self._text.append(" ")

    def finished(self) -> Iterator[Line]:
        text = " ".join("".join(self._text).split())
        if text:
            yield Line(text, self._left, self._right, self._y, self._size)
        self._clear()
