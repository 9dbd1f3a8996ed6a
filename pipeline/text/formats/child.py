"""The child process that reads formats whose readers are C or C++: it may die, hang or eat memory of its own.

It reads requests from standard input and writes replies to standard output until the input ends. A request is a line
of JSON (``format``, ``size``) and so many bytes; a reply is a line with a number, and so many bytes of JSON: a
`Document`, or an ``error`` with ``code`` and ``message``. Its arguments are its limits: seconds for one document (or
for one page, see `pipeline.text.formats.scans`), bytes of address space, and bytes that it may hold after a reply.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from pipeline.errors import InputError
from pipeline.text.formats.readers import READERS_IN_CHILD


def main(time_limit_s: int, memory_bytes: int, kept_bytes: int) -> None:
    # Whatever a library prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends the input
    requests = sys.stdin.buffer
    while line := requests.readline():
        request = json.loads(line)
        # The alarm kills a child that hangs, also when its parent has died.
        signal.alarm(time_limit_s)
        try:
            data = requests.read(request["size"])
        except MemoryError:
            _reply(replies, {"error": _out_of_memory(request["format"])}, is_last=True)
            return
        found = _answer(request["format"], data)
        signal.alarm(0)
        del data
        is_last = _resident_bytes() > kept_bytes
        _reply(replies, found, is_last=is_last)
        if is_last:
            return
        gc.collect()


def _answer(form: str, data: bytes) -> dict[str, Any]:
    try:
        return READERS_IN_CHILD[form]()(data).to_plain()
    except InputError as reason:
        code, message = reason.code, reason.message
    except MemoryError:
        return {"error": _out_of_memory(form)}
    except RecursionError:
        code, message = "bad_document", f"the {form} file is nested too deeply"
    except Exception as reason:
        code, message = "internal", f"reading this {form} file failed with {type(reason).__name__}"
    return {"error": {"code": code, "message": message}}


def _out_of_memory(form: str) -> dict[str, str]:
    return {"code": "out_of_memory", "message": f"reading this {form} file takes more memory than a document may have"}


def _reply(replies: BinaryIO, found: dict[str, Any], *, is_last: bool) -> None:
    """``is_last``: whether the child ends after this reply, and cannot be asked again."""
    content = json.dumps(found | {"is_last": is_last}).encode()
    replies.write(f"{len(content)}\n".encode())
    replies.write(content)
    replies.flush()


def _resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not say. `getrusage` would count that of the parent
    from before this program was started."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
