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
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.record import record
from pipeline.errors import ERROR_CODES
from pipeline.images.task import ImageSegmentation
from pipeline.task import INPUT_SCHEMA, Task
from pipeline.text.task import TextSegmentation
from tests.hostile.corpus import CASES, chunk, peak_mib

#: A file that takes longer hangs; machines that are shared stop for seconds at times.
DEADLINE_S = 30.0
#: More memory than this, above the child's own, is not given. Pictures may have four million pixels here.
MEMORY_BYTES = 1 << 30
MAX_PIXELS = 4_000_000
MOST_BYTES = 4 << 20  # of a file to begin with

TASKS: dict[str, Task] = {
    "image": ImageSegmentation(
        classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=32, width_px=64, max_pixels=MAX_PIXELS
    ),
    "document": TextSegmentation(max_chars=1_000_000),
}
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TEXTS = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xe2\x80\xa9", b"\xf0\x9f\x98\x80", b"\x80"),
    *(b"\0", b"\r", b"\n\n", b". ", b'"', b"[", b"{", b"\\ud800", b"\\u0000", b"1e999", b"NaN"),
    b'"paragraphs": [[0, 1]],',
)

Seeds = dict[str, list[bytes]]


def seeds() -> Seeds:
    """The files to change, by kind."""
    found: Seeds = {}
    for case in CASES:
        if not case.heavy:
            data = case.make()
            if 0 < len(data) <= MOST_BYTES:
                found.setdefault(case.kind, []).append(data)
    return found


def mutant(files: Seeds, seed: int, number: int) -> tuple[str, str, str, bytes]:
    """The kind of file, its format, the changes, and the bytes of file ``number``."""
    draw = random.Random(f"{seed} {number}")
    kind = "document" if number % 4 == 3 else "image"
    data = draw.choice(files[kind])
    if len(data) > 1 << 17 and draw.random() < 0.9:  # large ones are slow, and few
        data = draw.choice([file for file in files[kind] if len(file) <= 1 << 17])
    changes = []
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        name = draw.choice([name for name, (kinds, _) in MUTATIONS.items() if kind in kinds])
        data = MUTATIONS[name][1](draw, data, files[kind])
        changes.append(name)
    form = draw.choice(("object", "json")) if kind == "document" else "object"
    if form == "json" and b"\n" in data and draw.random() < 0.8:
        data = max(data.split(b"\n"), key=len)
    return kind, form, changes[0] if len(set(changes)) == 1 else "several", data


def _flip(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _early(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Bytes of the first part, where headers are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 4))):
        if changed:
            changed[draw.randrange(min(64, len(changed)))] = draw.randrange(256)
    return bytes(changed)


def _cut(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _remove(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 2, 4, 16, 256)) :]


def _repeat(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start, size = draw.randrange(len(data) + 1), draw.choice((1, 2, 4, 16, 256, 4096))
    return data[:start] + data[start : start + size] * draw.choice((2, 3, 100)) + data[start + size :]


def _splice(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    other = draw.choice(others)[: 1 << 18]
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _extreme(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """A number of 2, 4 or 8 bytes, which may be a length or a size, as large or as small as it can be."""
    size, order = draw.choice((1, 2, 4, 4, 8)), draw.choice((">", "<"))
    if len(data) <= size:
        return data
    start = draw.randrange(min(len(data) - size, draw.choice((64, 1024, len(data)))))
    value = draw.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:start] + struct.pack(order + {1: "B", 2: "H", 4: "L", 8: "Q"}[size], value) + data[start + size :]


def _nudge(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """A number that is nearly right."""
    if len(data) < 4:
        return data
    start = draw.randrange(min(len(data) - 3, 1024))
    changed = bytearray(data)
    changed[start] = (changed[start] + draw.choice((-2, -1, 1, 2))) & 255
    return bytes(changed)


def _insert(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + draw.choice(TEXTS) * draw.choice((1, 1, 2, 1000)) + data[start:]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    return found


def _png(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Chunks of a PNG lost, doubled, moved, changed, with sums that are right."""
    if not data.startswith(b"\x89PNG"):
        data = draw.choice([other for other in others if other.startswith(b"\x89PNG")])
    parts = _chunks(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if not parts:
            break
        index, way = draw.randrange(len(parts)), draw.randrange(6)
        name, content = parts[index]
        if way == 0:
            del parts[index]
        elif way == 1:
            parts.insert(draw.randrange(len(parts) + 1), parts[index])
        elif way == 2:
            parts[index] = name, _flip(draw, content, others)
        elif way == 3:
            parts[index] = name, _extreme(draw, content, others)
        elif way == 4:
            parts[index] = name, _cut(draw, content, others)
        else:
            names = (b"tRNS", b"PLTE", b"IDAT", b"fdAT", b"fcTL", b"acTL", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"gAMA")
            parts.insert(draw.randrange(len(parts) + 1), (draw.choice(names), draw.randbytes(draw.randrange(40))))
    return data[:8] + b"".join(chunk(name, content) for name, content in parts)


def _inflated(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The lines of a PNG changed before they are deflated, or its header with them, with sums that are right."""
    if not data.startswith(b"\x89PNG"):
        data = draw.choice([other for other in others if other.startswith(b"\x89PNG")])
    parts = _chunks(data)
    packed = b"".join(content for name, content in parts if name == b"IDAT")
    try:
        raw = zlib.decompressobj().decompress(packed, 1 << 20)
    except zlib.error:
        raw = packed
    raw = draw.choice((_flip, _cut, _repeat))(draw, raw, others)
    kept = [(name, content) for name, content in parts if name != b"IDAT"]
    if kept and kept[0][0] == b"IHDR" and len(kept[0][1]) == 13 and draw.random() < 0.5:
        header = bytearray(kept[0][1])
        header[draw.choice((3, 7, 8, 9, 12))] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        kept[0] = b"IHDR", bytes(header)
    return data[:8] + b"".join(
        (chunk(b"IDAT", zlib.compress(raw)) if name == b"IEND" else b"") + chunk(name, content)
        for name, content in kept
    )


MUTATIONS: dict[str, tuple[tuple[str, ...], Callable[[random.Random, bytes, list[bytes]], bytes]]] = {
    "flipped bits": (("image", "document"), _flip),
    "changed header": (("image", "document"), _early),
    "cut off": (("image", "document"), _cut),
    "removed piece": (("image", "document"), _remove),
    "repeated piece": (("image", "document"), _repeat),
    "two files spliced": (("image", "document"), _splice),
    "extreme number": (("image", "document"), _extreme),
    "nudged number": (("image",), _nudge),
    "inserted text": (("document",), _insert),
    "png chunks, sums mended": (("image",), _png),
    "png pixels, sums mended": (("image",), _inflated),
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
