"""Text files that a user has written: lists, manifests, classes.json. One function reads them all."""

from __future__ import annotations

import codecs
import re

from pipeline import storage
from pipeline.errors import InputError, RequestError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile(r"\r\n|[\n\r]")


def read_text(uri: str) -> str:
    """The text of a file, without its byte order mark. Raises `FileNotFoundError` and `NotADirectoryError`.

    The encoding is that of the mark, or UTF-8 if there is none; nothing is guessed. `RequestError` that names the file,
    the line and the byte if it is in another encoding, or that names the file if it cannot be read.
    """
    try:
        data = storage.read(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, InputError) as reason:
        raise RequestError(f"{uri} cannot be read ({type(reason).__name__})") from reason
    return decoded(data, uri)


def decoded(data: bytes, name: str) -> str:
    """The text of the bytes of a file, as `read_text` has it. ``name``: the file's, for messages."""
    mark, encoding = next(((mark, found) for mark, found in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as reason:
        before = data[len(mark) : len(mark) + reason.start].decode(encoding, "replace")
        line, place = len(lines_of(before + ".")), len(mark) + reason.start
        byte = f"byte {place} (0x{data[place]:02x})"
        raise RequestError(f"{name}, line {line}: must be {encoding.upper()}, but {byte} is not") from reason
    if "\0" in text:
        rule = "must be text, but it holds a zero byte"
        raise RequestError(f"{name}, line {len(lines_of(text[: text.index(chr(0)) + 1]))}: {rule}")
    return text


def encoding_of(head: bytes) -> str:
    """The encoding that the byte order mark at the beginning of a file names; UTF-8 if there is none."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")


def lines_of(text: str) -> list[str]:
    """The lines of a text; they end with a line feed, a carriage return or both, and with nothing else."""
    found = _LINE_END.split(text)
    return found[:-1] if found[-1] == "" else found
