"""The one door to documents: an input's bytes to a `Document`, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.rows import OBJECT, RECORD
from pipeline.text.encodings import decode_text
from pipeline.text.formats.detection import ENDINGS, format_of
from pipeline.text.formats.document import PLAIN, Document
from pipeline.text.formats.reader_process import read_in_child
from pipeline.text.formats.readers import READERS_HERE, WITH_OCR, missing_for_ocr
from pipeline.text.inputs import blank_line_paragraphs, parse_record

#: Formats that do not say where their paragraphs begin, so that nothing can be learned from them or measured on them.
_WITHOUT_PARAGRAPHS = frozenset({"pdf", WITH_OCR, "srt", "vtt", "whisper"})


@dataclass(frozen=True, kw_only=True)
class ReadDocument:
    """A document as it was read."""

    document: Document
    doc_id: str | None = None
    paragraphs: list[tuple[int, int]] | None = None
    """Its paragraphs, if a record names them."""

    @property
    def text(self) -> str:
        return self.document.text

    def known_paragraphs(self) -> list[tuple[int, int]]:
        """The true paragraphs: those that a record names, the blocks of a format that has blocks, or else what blank
        lines separate. Raises `InputError` ``no_paragraphs`` for formats that do not say where paragraphs begin."""
        if self.document.format in _WITHOUT_PARAGRAPHS:
            raise InputError("no_paragraphs", f"a {self.document.format} file does not say where its paragraphs begin")
        return self.paragraphs or blank_line_paragraphs(self.text)


def read_document(data: bytes, form: str, *, ocr: bool = False) -> ReadDocument:
    """A document from an input's bytes.

    ``form`` is what the listing says of the input: `RECORD` for a JSON record, a format for a file whose name says so
    (`ENDINGS`), and `OBJECT` for any other file, whose first bytes then decide. ``ocr``: whether pages of PDF files
    that are pictures are read, too, which takes seconds a page and needs the extra ``ocr``. Raises what `decode_text`,
    `parse_record` and the readers in `pipeline.text.formats` raise.
    """
    if form == RECORD:
        record = parse_record(data)
        document = Document(format=PLAIN, text=record["text"], encoding="utf-8")
        return ReadDocument(document=document, doc_id=record["doc_id"], paragraphs=record["paragraphs"])
    assert form == OBJECT or form in ENDINGS.values(), form
    if not data:
        raise InputError("empty", "the file has no bytes")
    found = format_of(data, None if form == OBJECT else form)
    if found == PLAIN:
        text, encoding = decode_text(data)
        return ReadDocument(document=Document(format=PLAIN, text=text, encoding=encoding))
    ocr = ocr and found == "pdf"
    if ocr and (lack := missing_for_ocr()):
        raise InputError("no_ocr", lack)
    if found in READERS_HERE:
        return ReadDocument(document=READERS_HERE[found]()(data))
    return ReadDocument(document=read_in_child(data, WITH_OCR if ocr else found))
