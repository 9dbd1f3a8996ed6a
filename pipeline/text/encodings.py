"""Decoding bytes to text. Nothing is guessed, and no character is replaced."""

from __future__ import annotations

import codecs
import re

from pipeline.errors import InputError

# UTF-32 comes first, since its little-endian byte order mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""\A\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})"""
    rb"""|<meta\s[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""",
    re.IGNORECASE,
)
_DECLARED_BYTES = 4096
#: Labels that browsers read as windows-1252 (WHATWG Encoding Standard), which has more characters.
_AS_WINDOWS_1252 = frozenset({"ascii", "iso8859-1"})


def decode_text(data: bytes) -> tuple[str, str]:
    """Decode the bytes of a file; returns the text and the name of the encoding.

    The encoding is that of the byte order mark, which is not part of the text, or UTF-8 if there is none. Nothing is
    guessed: Latin-1 raises ``bad_encoding`` unless it is ASCII, and UTF-16 without a mark raises ``not_text`` or
    ``bad_encoding``. No character is replaced and line ends are kept, so offsets are those of the file. A byte order
    mark inside the text is an ordinary character. Raises `InputError`: ``empty`` (no bytes, or only white space),
    ``not_text``, ``bad_encoding``.
    """
    if not data:
        raise InputError("empty", "the file has no bytes")
    encoding = marked_encoding(data) or "utf-8"
    if encoding.startswith("utf-8") and b"\0" in data:
        raise InputError("not_text", "the file holds a NUL byte")
    return checked_text(_decoded(data, encoding)), encoding


def decode_html(data: bytes) -> tuple[str, str]:
    """Decode an HTML page; returns the text and the name of the encoding.

    The encoding is that of the byte order mark, or else the one that an XML declaration or a ``<meta>`` in the first
    4,096 bytes names, or else UTF-8. Raises what `decode_text` raises, and ``bad_encoding`` if it names one that
    does not exist.
    """
    if not data:
        raise InputError("empty", "the file has no bytes")
    declared = None if marked_encoding(data) else _DECLARED.search(data[:_DECLARED_BYTES])
    if declared is None:
        return decode_text(data)
    label = (declared[1] or declared[2]).decode("ascii").lower()
    try:
        encoding = codecs.lookup(label).name
        b"x".decode(encoding)  # refuses codecs that are no encodings of text, such as zip
    except (LookupError, ValueError) as cause:
        raise InputError("bad_encoding", f"the page declares the encoding {label}, which is not known") from cause
    if encoding.startswith(("utf-16", "utf-32")):
        return decode_text(data)  # the declaration could be read as ASCII, so it is wrong
    encoding = "windows-1252" if encoding in _AS_WINDOWS_1252 else encoding
    return checked_text(_decoded(data, encoding)), encoding


def marked_encoding(data: bytes) -> str | None:
    """The encoding that the byte order mark of a file names; None without a mark."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def checked_text(text: str) -> str:
    """The text, if it can be segmented. Raises `InputError`: ``not_text`` (a NUL character), ``empty``."""
    if "\0" in text:
        raise InputError("not_text", "the text holds a NUL character")
    if not text or text.isspace():
        raise InputError("empty", "the text is empty or nothing but white space")
    return text


def is_unicode(text: str) -> bool:
    """Whether a string has no half of a surrogate pair, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as cause:
        raise InputError("bad_encoding", f"byte {cause.start} is not valid {encoding.upper()}") from cause
