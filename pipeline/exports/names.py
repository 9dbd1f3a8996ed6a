"""Names of exported files, made from the names of inputs."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping

# What some file system does not take, and what would be a path of its own.
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')
_MOST_BYTES = 160  # of one part of a path; file systems take 255
_LONGEST_ENDING = 8


def common_folder(uris: Iterable[str], start: str | None = None) -> str | None:
    """The folder, with a slash at its end, that all URIs have in common, and ``start`` if it is given."""
    for uri in uris:
        folder = uri[: uri.rfind("/") + 1]
        if start is None:
            start = folder
        while not uri.startswith(start):
            start = start[: start[:-1].rfind("/") + 1]
    return start


class Names:
    """Gives each input a relative path that no other one has, also where case does not count in names."""

    def __init__(self, folder: str, endings: tuple[str, ...]) -> None:
        """``folder``: what is left out at the beginning of URIs. ``endings``: those of inputs, which are replaced."""
        self._folder, self._endings = folder, endings
        self._taken: set[int] = set()  # hashes: names of millions of inputs take less memory so

    def of(self, uri: str, member: str | None, ending: str | None) -> str:
        """The path of an input's file: ``night/0001.jpg`` becomes ``night/0001.png`` for the ending ``.png``. With
        None it keeps its ending. Where it is taken, ``-2`` and so on is appended to its stem."""
        path = uri.removeprefix(self._folder) + ("" if member is None else f"/{member}")
        *folders, name = [_cleaned(part) for part in path.split("/") if part not in ("", ".")] or ["_"]
        stem, own = posixpath.splitext(name)
        if ending is None:
            ending = own
        elif own.lower() not in self._endings:
            stem = name
        # A folder with the ending of a file could be in a file's place.
        folders = [f"{part}_" if ending and part.lower().endswith(ending) else part for part in folders]
        number, found = 1, "/".join([*folders, stem + ending])
        while (key := hash(unicodedata.normalize("NFC", found).casefold())) in self._taken:
            number += 1
            found = "/".join([*folders, f"{stem}-{number}{ending}"])
        self._taken.add(key)
        return found


class GivenNames(Names):
    """Names that were given before, to each input that there is."""

    def __init__(self, given: Mapping[tuple[str, str | None], str]) -> None:
        super().__init__("", ())
        self._given = given

    def of(self, uri: str, member: str | None, ending: str | None) -> str:
        return self._given[uri, member]


def _cleaned(part: str) -> str:
    name = _NOT_IN_NAMES.sub("_", part)
    if set(name) == {"."} or name.endswith((".", " ")):
        name = f"{name.rstrip('. ')}_"
    encoded = name.encode()
    if len(encoded) <= _MOST_BYTES:
        return name
    ending = posixpath.splitext(name)[1].encode()[-_LONGEST_ENDING:]
    return encoded[: _MOST_BYTES - len(ending)].decode(errors="ignore") + ending.decode(errors="ignore")
