"""Child processes that read documents, and what happens when one dies, hangs or eats memory: one input fails."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import InputError
from pipeline.text.formats.document import Document
from pipeline.text.formats.readers import WITH_OCR

#: Seconds that reading one document may take, and the largest address space of a child.
TIME_LIMIT_S = 60
MEMORY_BYTES = 3 << 30
#: With OCR, the time is that of each page, and this one that of all pages. The stream has a limit of its own.
OCR_LIMIT_S = 4 * 60 * 60
OCR_MEMORY_BYTES = 6 << 30
#: A child that holds more after a document ends, so that one large document does not keep its memory for ever.
KEPT_BYTES, OCR_KEPT_BYTES = 512 << 20, 2 << 30
#: The child ends itself first; the parent waits somewhat longer, for a child that cannot.
_PATIENCE_S = 5.0
_ATTEMPTS = 2
_PIECE_BYTES = 1 << 20


class ChildDied(Exception):
    """The child has ended without a reply."""


def read_in_child(data: bytes, form: str) -> Document:
    """Read a document in a child process of this one; threads have a child each, which is kept for the next document.

    Raises `InputError`: what the reader of the format raises; ``timeout`` after `TIME_LIMIT_S` seconds, or after as
    many for one page that is read by OCR; ``crashed`` if
    two children have died of it, one after the other, since one can also be killed by chance.
    """
    children = _CHILDREN_WITH_OCR if form == WITH_OCR else _CHILDREN
    for _ in range(_ATTEMPTS):
        child = children.take()
        try:
            found = child.ask(data, form)
        except ChildDied:
            child.end()
            continue
        except BaseException:
            child.end()
            raise
        if found.pop("is_last"):
            child.end()
        else:
            children.put_back(child)
        if "error" in found:
            raise InputError(found["error"]["code"], found["error"]["message"])
        return Document(**found)
    raise InputError("crashed", f"the process that reads {form} files died of this one, twice")


class ReaderProcess:
    """One child process, with its limits."""

    def __init__(
        self,
        time_limit_s: int = TIME_LIMIT_S,
        memory_bytes: int = MEMORY_BYTES,
        whole_limit_s: int | None = None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        """``whole_limit_s``: seconds after which a child is ended that gives itself more time, page by page."""
        self._time_limit_s, self._whole_limit_s = time_limit_s, whole_limit_s or time_limit_s
        limits = [str(number) for number in (time_limit_s, memory_bytes, kept_bytes)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.text.formats.child", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, data: bytes, form: str) -> dict[str, Any]:
        """The reply to a request. Raises `ChildDied`, and `InputError` ``timeout``."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"format": form, "size": len(data)}).encode() + b"\n")
            stdin.write(data)
            stdin.flush()
        except OSError:
            pass  # the child has closed the pipe: it died, or has answered before it read all
        return json.loads(self._reply(stdout.fileno(), form))

    def end(self) -> None:
        """Kill the child, if it lives, and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                continue  # what was not written yet has no reader any more

    def _reply(self, source: int, form: str) -> bytes:
        deadline = time.monotonic() + self._whole_limit_s + _PATIENCE_S
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            size: int | None = None
            while size is None or len(received) < size:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise _too_slow(f"this {_file(form)}", self._whole_limit_s)
                piece = os.read(source, _PIECE_BYTES)
                if not piece:
                    self._process.wait()
                    if self._process.returncode == -signal.SIGALRM:  # the child's own limit
                        what = f"a page of this {_file(form)}" if form == WITH_OCR else f"this {_file(form)}"
                        raise _too_slow(what, self._time_limit_s)
                    raise ChildDied
                received += piece
                if size is None and (line := received.find(b"\n")) >= 0:
                    size = int(received[:line])
                    del received[: line + 1]
        return bytes(received)


def _file(form: str) -> str:
    return "pdf file with OCR" if form == WITH_OCR else f"{form} file"


def _too_slow(what: str, limit_s: int) -> InputError:
    return InputError("timeout", f"reading {what} takes more than {limit_s} seconds")


class _Children:
    """The children that wait for work, and how more are started."""

    def __init__(self, start: Callable[[], ReaderProcess]) -> None:
        self._start = start
        self._idle: list[ReaderProcess] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.end)

    def take(self) -> ReaderProcess:
        with self._lock:
            if self._owner != os.getpid():  # after a fork, the children are those of another process
                self._idle, self._owner = [], os.getpid()
            while self._idle:
                child = self._idle.pop()
                if child.is_alive:
                    return child
                child.end()
        return self._start()

    def put_back(self, child: ReaderProcess) -> None:
        with self._lock:
            self._idle.append(child)

    def end(self) -> None:
        with self._lock:
            children, self._idle = self._idle, []
        if self._owner == os.getpid():
            for child in children:
                child.end()


_CHILDREN = _Children(ReaderProcess)
_CHILDREN_WITH_OCR = _Children(lambda: ReaderProcess(TIME_LIMIT_S, OCR_MEMORY_BYTES, OCR_LIMIT_S, OCR_KEPT_BYTES))
