"""What format a document has: by its first bytes where they tell, and otherwise by the ending of its name."""

from __future__ import annotations

import io
import re
import zipfile

from pipeline.errors import InputError
from pipeline.text.encodings import marked_encoding
from pipeline.text.formats.document import PLAIN
from pipeline.text.formats.docx import USUAL_PART

#: Endings of names, and the formats that they stand for. Files with the endings of `PLAIN` are never anything else.
ENDINGS = {
    ".txt": PLAIN,
    ".text": PLAIN,
    ".md": "markdown",
    ".markdown": "markdown",
    ".srt": "srt",
    ".vtt": "vtt",
    ".json": "whisper",
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".docx": "docx",
    ".epub": "epub",
}

_HEAD_CHARS = 2048
_COMPOUND_FILE = bytes.fromhex("d0cf11e0a1b11ae1")  # Word before 2007, and encrypted files of any version
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_HTML = re.compile(r"(?:\s|<\?xml[^<>]*>|<!--.*?-->)*<(?:!doctype\s+html|html)(?=[\s>])", re.IGNORECASE | re.DOTALL)
_SRT = re.compile(r"\s*\d+[ \t]*\r?\n[ \t]*\d{1,4}:\d\d:\d\d[,.]\d{1,3}[ \t]*-->[ \t]*\d{1,4}:\d\d:\d\d[,.]\d{1,3}")
_WEBVTT = re.compile(r"WEBVTT(?=[ \t\r\n]|\Z)")


def format_of(data: bytes, named: str | None) -> str:
    """The format of a document: a key of `READERS_HERE` or `READERS_IN_CHILD`, or `PLAIN`.

    ``named`` is the format that its name stands for (`ENDINGS`), or None. A file that is named as plain text is plain
    text. Raises `InputError` ``bad_document`` or ``encrypted`` for a Word file that is not read here, if its name
    promises a document.
    """
    if named == PLAIN:
        return PLAIN
    if data.startswith(b"%PDF-"):
        return "pdf"
    if data.startswith(b"PK\x03\x04") and (found := _zipped(data)) is not None:
        return found
    if data.startswith(_COMPOUND_FILE) and named is not None:
        if _ENCRYPTED_PACKAGE in data:
            raise InputError("encrypted", "the Word file is encrypted, and needs a password to be read")
        raise InputError("bad_document", "the file is of a format of Office before 2007, which is not read")
    if named == "markdown":
        return named
    return _by_text(data) or named or PLAIN


def _zipped(data: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = set(file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, IndexError):
        return None
    if "META-INF/container.xml" in names:
        return "epub"
    return "docx" if USUAL_PART in names or "[Content_Types].xml" in names else None


def _by_text(data: bytes) -> str | None:
    """The format of a text, by its beginning; None if it is none of these, or no text."""
    encoding = marked_encoding(data) or "utf-8"
    head = data[: 4 * _HEAD_CHARS].decode(encoding, "replace")[:_HEAD_CHARS]
    if _WEBVTT.match(head):
        return "vtt"
    if _SRT.match(head):
        return "srt"
    if _HTML.match(head):
        return "html"
    if head.lstrip()[:1] in ("{", "[") and _is_transcript(data, encoding):
        return "whisper"
    return None


def _is_transcript(data: bytes, encoding: str) -> bool:
    from pipeline.text.formats.whisper import segments_of

    try:
        return segments_of(data.decode(encoding)) is not None
    except UnicodeDecodeError:
        return False
