"""Zip files of text, read within limits, so that a small file cannot become a large one."""

from __future__ import annotations

import io
import zipfile
import zlib

from pipeline.errors import InputError

MAX_FILES = 20_000
MAX_BYTES = 256 << 20  # of all files that are read, together
MAX_RATIO = 500  # decompressed to compressed, of a file above a megabyte; text reaches some 50
_SMALL_BYTES = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, KeyError, IndexError)


class ZippedFiles:
    """The files inside of a zip file, by name. Raises `InputError`: ``bad_document``, ``too_large``, ``encrypted``."""

    def __init__(self, data: bytes, what: str) -> None:
        """``what`` names the format in messages, such as ``the docx file``."""
        self._what, self._left = what, MAX_BYTES
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            infos = self._zip.infolist()
        except _BROKEN as cause:
            raise InputError("bad_document", f"{what} is a broken zip file") from cause
        if len(infos) > MAX_FILES:
            raise InputError("too_large", f"{what} holds {len(infos)} files, more than the limit of {MAX_FILES}")
        self._infos = {info.filename: info for info in infos}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str) -> bytes:
        """The bytes of a file, which counts against the limit of all files."""
        info = self._infos.get(name)
        if info is None:
            raise InputError("bad_document", f"{self._what} lacks a part that it must have")
        if info.flag_bits & 1:
            raise InputError("encrypted", f"{self._what} is encrypted")
        limit = self._left
        if info.compress_size * MAX_RATIO > _SMALL_BYTES:
            limit = min(limit, info.compress_size * MAX_RATIO)
        else:
            limit = min(limit, _SMALL_BYTES)
        try:
            with self._zip.open(info) as file:
                found = file.read(limit + 1)
        except _BROKEN as cause:
            raise InputError("bad_document", f"a part of {self._what} is broken") from cause
        except RuntimeError as cause:  # what zipfile raises for a password
            raise InputError("encrypted", f"{self._what} is encrypted") from cause
        if len(found) > limit:
            raise InputError("too_large", f"a part of {self._what} grows beyond the limits when it is decompressed")
        self._left -= len(found)
        return found
