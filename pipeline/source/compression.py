"""Decompressing objects as a stream, and the limit on a stream that does not end."""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage.store import RawFile

COMPRESSIONS = (".gz", ".zst")

_PROGRESS_BYTES = 16 << 20
_STEP_BYTES = 16 << 10  # what is lost where a stream breaks off


class Progress:
    """The time since the reader of a container last found something. It ends containers that have no end.

    A small compressed file can stand for bytes without end, so bytes alone do not count as something found, unless
    they are many bytes of the compressed file itself.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self.made()

    def made(self) -> None:
        """Something was found, or the caller had the reader wait: the time begins anew."""
        self._until = time.monotonic() + self._deadline_s

    def check(self) -> None:
        """`InputError` ``timeout`` if nothing was found for too long."""
        if time.monotonic() > self._until:
            raise InputError("timeout", "nothing was found in the container for too long")


def is_compressed(uri: str) -> bool:
    """Whether the object is compressed, by its name."""
    return uri.lower().endswith((*COMPRESSIONS, ".tgz"))


def without_compression(uri: str) -> str:
    """The name of what is compressed, such as ``a.txt`` for ``a.txt.gz``."""
    for compression in COMPRESSIONS:
        if uri.lower().endswith(compression):
            return uri[: -len(compression)]
    return uri


def decompress(uri: str, file: BinaryIO, progress: Progress | None = None) -> BinaryIO:
    """A file with the decompressed bytes; the name decides on the compression. It can seek forward only.

    Its exceptions are those of the decompressor, an `EOFError` or `OSError` where the compressed data are cut, and with
    ``progress`` its `InputError`.
    """
    if not is_compressed(uri):
        return file
    watched = file if progress is None else cast("BinaryIO", io.BufferedReader(_Watched(file, progress)))
    if uri.lower().endswith(".zst"):
        # zstandard's own reader takes a cut frame for an end.
        read = _reading(pa.CompressedInputStream(pa.PythonFile(watched, mode="r"), "zstd"))
    else:
        read = gzip.GzipFile(fileobj=watched, mode="rb").read1
    return cast("BinaryIO", io.BufferedReader(_Forward(watched, read), _STEP_BYTES))


def _reading(stream: pa.NativeFile) -> Callable[[int], bytes]:
    """``stream.read``, which keeps what it has allocated for ever if it raises: once for each damaged file."""

    def read(count: int) -> bytes:
        buffer = bytearray(count)
        return bytes(memoryview(buffer)[: stream.readinto(buffer)])

    return read


class _Watched(io.RawIOBase):
    """A compressed file that counts as progress only if much of it is read."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._since = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._progress.check()
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._since += len(data)
        if self._since >= _PROGRESS_BYTES:
            self._since = 0
            self._progress.made()
        return len(data)

    def close(self) -> None:
        super().close()
        self._file.close()


class _Forward(RawFile):
    """Decompressed bytes as an unbuffered file that can seek forward."""

    def __init__(self, file: BinaryIO, read: Callable[[int], bytes]) -> None:
        """``file``: the compressed file, which is closed with this one. ``read`` returns up to a number of bytes."""
        self._file, self._read = file, read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise OSError("only forward")
        while self._position < offset:
            step = len(self._read(min(_STEP_BYTES, offset - self._position)))
            if not step:
                break
            self._position += step
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(min(_STEP_BYTES, len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        super().close()
        self._file.close()
