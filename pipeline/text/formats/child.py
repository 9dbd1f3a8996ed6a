"""The child process that reads formats whose readers are C or C++: it may die, hang or eat memory of its own.

It reads requests from standard input and writes replies to standard output until the input ends. A request is a line
of JSON (``format``, ``size``) and so many bytes; a reply is a line with a number, and so many bytes of JSON: a
`Document`, or an ``error`` with ``code`` and ``message``.
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

#: Largest address space of the child, and seconds for one document.
MEMORY_BYTES = 3 << 30
TIME_LIMIT_S = 60
#: A child that has used so much ends after its reply, so that one large document does not keep its memory for ever.
_KEPT_KIB = 512 << 10


def main() -> None:
    # Whatever a library prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends the input
    requests = sys.stdin.buffer
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["size"])
        # The alarm kills a child that hangs, also when its parent has died.
        signal.alarm(TIME_LIMIT_S)
        found = _answer(request["format"], data)
        signal.alarm(0)
        del data
        _reply(replies, found)
        gc.collect()


def _answer(form: str, data: bytes) -> dict[str, Any]:
    try:
        return READERS_IN_CHILD[form]()(data).to_plain()
    except InputError as reason:
        code, message = reason.code, reason.message
    except MemoryError:
        code, message = "out_of_memory", f"reading this {form} file takes more memory than a document may have"
    except RecursionError:
        code, message = "bad_document", f"the {form} file is nested too deeply"
    except Exception as reason:
        code, message = "internal", f"reading this {form} file failed with {type(reason).__name__}"
    return {"error": {"code": code, "message": message}}


def _reply(replies: BinaryIO, found: dict[str, Any]) -> None:
    found["is_last"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _KEPT_KIB
    content = json.dumps(found).encode()
    replies.write(f"{len(content)}\n".encode())
    replies.write(content)
    replies.flush()
    if found["is_last"]:
        sys.exit(0)


if __name__ == "__main__":
    main()
