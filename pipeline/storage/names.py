r"""Names that are no text, as text that can be stored in a table, and back.

A file's name on Linux is any bytes. Python gives those that are not UTF-8 as lone surrogates, which no table can hold.
Here, such a byte becomes ``\xNN``: the Latin-1 name ``caf<E9>.txt`` becomes ``caf\xe9.txt``. A surrogate that stands
for no byte becomes ``\uNNNN``. Where a name has these characters themselves, their backslash becomes ``\x5c``, so two
names never become the same text. All other names, with other backslashes too, stay as they are.
"""

from __future__ import annotations

import re

_CODE = r"x5c|x[89a-f][0-9a-f]|ud[89a-f][0-9a-f]{2}"
_WRITTEN = re.compile(rf"\\({_CODE})")
_TO_WRITE = re.compile(rf"[\ud800-\udfff]|\\(?={_CODE})")
_SURROGATES = re.compile("[\ud800-\udfff]")


def as_text(name: str) -> str:
    """The text for a name as the operating system, or an archive, gives it."""
    return _TO_WRITE.sub(_code, name)


def as_name(text: str) -> str:
    """The inverse of `as_text`: the name for the operating system."""
    return _WRITTEN.sub(_character, text) if "\\" in text else text


def without_surrogates(text: str) -> str:
    """Text from a user or a manifest, which may be written already or not: only its lone surrogates are replaced."""
    return text if text.isascii() else _SURROGATES.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return rf"\x{number & 0xFF:02x}" if number < 0x80 or 0xDC80 <= number <= 0xDCFF else rf"\u{number:04x}"


def _character(match: re.Match[str]) -> str:
    number = int(match[1][1:], 16)
    return chr(0xDC00 + number) if match[1][0] == "x" and number >= 0x80 else chr(number)
