"""Mutants: files that are made from the hostile corpus by small changes, each determined by a seed and a number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from testing.hostile.corpus import CASES, chunk

MOST_BYTES = 4 << 20  # largest file that is mutated
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TEXTS = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xe2\x80\xa9", b"\xf0\x9f\x98\x80", b"\x80"),
    *(b"\0", b"\r", b"\n\n", b". ", b'"', b"[", b"{", b"\\ud800", b"\\u0000", b"1e999", b"NaN"),
    b'"paragraphs": [[0, 1]],',
)
Seeds = dict[str, list[bytes]]


def seeds() -> Seeds:
    """The files to mutate, by kind."""
    found: Seeds = {}
    for case in CASES:
        if not case.heavy:
            data = case.make()
            if 0 < len(data) <= MOST_BYTES:
                found.setdefault(case.kind, []).append(data)
    return found


def mutant(files: Seeds, seed: int, number: int) -> tuple[str, str, str, bytes]:
    """Make mutant ``number``: the kind of file, its format, the names of the changes, and its bytes."""
    draw = random.Random(f"{seed} {number}")
    kind = "document" if number % 4 == 3 else "image"
    data = draw.choice(files[kind])
    if len(data) > 1 << 17 and draw.random() < 0.9:  # mostly small files, since large ones are slow
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


def flip(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _early(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change bytes in the first part of the file, where headers are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 4))):
        if changed:
            changed[draw.randrange(min(64, len(changed)))] = draw.randrange(256)
    return bytes(changed)


def cut(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def remove(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 2, 4, 16, 256)) :]


def repeat(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start, size = draw.randrange(len(data) + 1), draw.choice((1, 2, 4, 16, 256, 4096))
    return data[:start] + data[start : start + size] * draw.choice((2, 3, 100)) + data[start + size :]


def splice(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    other = draw.choice(others)[: 1 << 18]
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def extreme(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Replace a number of 2, 4 or 8 bytes, which may be a length or a size, by an extreme value."""
    size, order = draw.choice((1, 2, 4, 4, 8)), draw.choice((">", "<"))
    if len(data) <= size:
        return data
    start = draw.randrange(min(len(data) - size, draw.choice((64, 1024, len(data)))))
    value = draw.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:start] + struct.pack(order + {1: "B", 2: "H", 4: "L", 8: "Q"}[size], value) + data[start + size :]


def _nudge(draw: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Change a number by a little."""
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
    """Remove, duplicate, move or change chunks of a PNG, with correct checksums."""
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
            parts[index] = name, flip(draw, content, others)
        elif way == 3:
            parts[index] = name, extreme(draw, content, others)
        elif way == 4:
            parts[index] = name, cut(draw, content, others)
        else:
            names = (b"tRNS", b"PLTE", b"IDAT", b"fdAT", b"fcTL", b"acTL", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"gAMA")
            parts.insert(draw.randrange(len(parts) + 1), (draw.choice(names), draw.randbytes(draw.randrange(40))))
    return data[:8] + b"".join(chunk(name, content) for name, content in parts)


def _inflated(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change the lines of a PNG before they are compressed, or also its header, with correct checksums."""
    if not data.startswith(b"\x89PNG"):
        data = draw.choice([other for other in others if other.startswith(b"\x89PNG")])
    parts = _chunks(data)
    packed = b"".join(content for name, content in parts if name == b"IDAT")
    try:
        raw = zlib.decompressobj().decompress(packed, 1 << 20)
    except zlib.error:
        raw = packed
    raw = draw.choice((flip, cut, repeat))(draw, raw, others)
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
    "flipped bits": (("image", "document"), flip),
    "changed header": (("image", "document"), _early),
    "cut off": (("image", "document"), cut),
    "removed piece": (("image", "document"), remove),
    "repeated piece": (("image", "document"), repeat),
    "two files spliced": (("image", "document"), splice),
    "extreme number": (("image", "document"), extreme),
    "nudged number": (("image",), _nudge),
    "inserted text": (("document",), _insert),
    "png chunks, sums mended": (("image",), _png),
    "png pixels, sums mended": (("image",), _inflated),
}
