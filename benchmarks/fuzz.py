"""Files that are changed at random, through both `prepare` functions: no crash, no hang, no error code out of the list.

The small files of the hostile corpus are changed in one or several ways; of those changes that a checksum would
catch, some mend it, so that what is behind it is reached. A child process prepares them, with a limit on its memory;
the parent notices when it dies, or is at one file for too long, and begins a new one behind that file. File N of seed S
is the same everywhere: ``--only N`` prepares it alone, here and now, and says what comes of it.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import resource
import sys
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.record import record
from pipeline.errors import ERROR_CODES
from pipeline.images.task import ImageSegmentation
from pipeline.rows import INPUT_SCHEMA
from pipeline.task import Task
from pipeline.text.task import TextSegmentation
from testing.hostile.corpus import peak_mib
from testing.hostile.mutants import mutant, seeds

#: A file that takes longer hangs; machines that are shared stop for seconds at times.
DEADLINE_S = 30.0
#: More memory than this, above the child's own, is not given. Pictures may have four million pixels here.
MEMORY_BYTES = 1 << 30
MAX_PIXELS = 4_000_000
TASKS: dict[str, Task] = {
    "image": ImageSegmentation(
        classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=32, width_px=64, max_pixels=MAX_PIXELS
    ),
    "document": TextSegmentation(max_chars=1_000_000),
}


def prepare(kind: str, form: str, data: bytes) -> tuple[str, str, bool]:
    """The code of a file (``done`` without one), its message, and whether a warning leaked."""
    inputs = pa.table({"data": [data], "format": [form], "label": [None]}, INPUT_SCHEMA)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        error = TASKS[kind].prepare(inputs)["error"][0].as_py()
    if error is None:
        return "done", "", bool(leaked)
    return error["code"], error["message"], bool(leaked)


def _work(pipe: Connection, seed: int, begin: int, end: int) -> None:
    """The child: every file, told before and after."""
    faulthandler.enable()
    files = seeds()
    for kind in TASKS:  # what is loaded once is no file's
        prepare(kind, "object", b"Once.")
    with open("/proc/self/statm") as status:
        used = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    for number in range(begin, end):
        kind, form, change, data = mutant(files, seed, number)
        pipe.send((number, kind, change))
        started = time.perf_counter()
        code, message, leaked = prepare(kind, form, data)
        seconds = time.perf_counter() - started
        pipe.send((code, message, leaked, seconds, peak_mib()))
    pipe.send(None)


def fuzz(seed: int, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A line for each kind of change, and the headline."""
    codes: dict[str, Counter[str]] = {}
    slowest: dict[str, tuple[float, int]] = {}
    problems: list[str] = []
    totals = Counter[str]()
    peak, begin = 0.0, 0
    context = multiprocessing.get_context("spawn")
    while begin < count:
        pipe, other = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(other, seed, begin, count), daemon=True)
        child.start()
        other.close()
        current: tuple[int, str, str] | None = None
        while True:
            if not pipe.poll(DEADLINE_S if current else 300):
                failure = "hangs"
                break
            try:
                told = pipe.recv()
            except EOFError:
                failure = "crashes"
                break
            if told is None:
                failure, begin = "", count
                break
            if current is None:
                current = told
                continue
            number, kind, change = current
            code, message, leaked, seconds, memory = told
            line = f"{kind}: {change}"
            codes.setdefault(line, Counter())[code] += 1
            slowest[line] = max(slowest.get(line, (0.0, 0)), (seconds, number))
            peak = max(peak, memory)
            # Running out of the child's memory, or a defect of ours, is in the list, and yet wrong here.
            for name, wrong in (
                ("unlisted", code != "done" and code not in ERROR_CODES),
                ("internal", code in ("internal", "out_of_memory")),
                ("warnings", leaked),
            ):
                if wrong:
                    totals[name] += 1
                    problems.append(f"{name}: seed {seed}, number {number}, {line}: {code} {message}")
            begin, current = number + 1, None
        if child.is_alive() and failure:
            child.kill()
        child.join()
        if failure:
            number, kind, change = current or (begin, "?", "?")
            totals[failure] += 1
            codes.setdefault(f"{kind}: {change}", Counter())[failure] += 1
            problems.append(f"{failure}: seed {seed}, number {number}, {kind}: {change}, exit code {child.exitcode}")
            begin = number + 1
    for problem in problems:
        print(problem)
    every = sorted({code for counter in codes.values() for code in counter})
    rows = [
        {"change": line, "files": sum(codes[line].values())}
        | {code: codes[line][code] for code in every}
        | ({"slowest s": slowest[line][0], "its number": slowest[line][1]} if line in slowest else {})
        for line in sorted(codes)
    ]
    headline = {
        "files": sum(row["files"] for row in rows),
        **{name: totals[name] for name in ("crashes", "hangs", "unlisted", "internal", "warnings")},
        "slowest_s": max((seconds for seconds, _ in slowest.values()), default=0.0),
        "peak_mib": peak,
    }
    return rows, headline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="prepare this file alone")
    parser.add_argument("--keep", type=Path, help="with --only: write the file here")
    parser.add_argument("--small", action="store_true", help="500 files")
    arguments = parser.parse_args()
    if arguments.only is not None:
        kind, form, change, data = mutant(seeds(), arguments.seed, arguments.only)
        if arguments.keep:
            arguments.keep.write_bytes(data)
        print(f"{kind} ({form}), {change}, {len(data)} bytes")
        print(prepare(kind, form, data))
        return
    count = 500 if arguments.small else arguments.files
    rows, headline = fuzz(arguments.seed, count)
    protocol = f"seed {arguments.seed}, one run, {DEADLINE_S:.0f} s and {MEMORY_BYTES >> 20} MiB a file. {__doc__}"
    record("fuzz", rows, headline, protocol, small=arguments.small)
    if any(headline[name] for name in ("crashes", "hangs", "unlisted", "internal", "warnings")):
        sys.exit(1)


if __name__ == "__main__":
    main()
