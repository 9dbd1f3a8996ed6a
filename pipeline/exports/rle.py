"""Run-length encodings of binary masks, as COCO, CVAT and Label Studio have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Bits of the lengths that a run of the brush format can have; each run says by two bits which one it has.
_BRUSH_BITS = (3, 4, 8, 16)


def run_lengths(values: np.ndarray) -> np.ndarray:
    """The lengths of the runs of booleans (n,), beginning with one of False, which may be empty. int64."""
    if not len(values):
        return np.zeros(1, np.int64)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = np.concatenate([[0] if values[0] else [], [0], changes, [len(values)]]).astype(np.int64)
    return np.diff(edges)


def coco_counts(mask: np.ndarray, top: int, left: int, height: int, width: int) -> list[int]:
    """COCO's uncompressed counts, column by column, of a mask (h, w) that lies at (top, left) in an image of the size.

    Its cost depends on the size of the mask, not on that of the image.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1]), np.int8)
    padded[1:-1] = mask
    steps = np.diff(padded, axis=0).T  # of each column
    first, last = (np.nonzero(steps == step) for step in (1, -1))
    starts = (first[0] + left) * height + first[1] + top
    ends = (last[0] + left) * height + last[1] + top
    apart = starts[1:] != ends[:-1]  # a run goes on in the next column if it reaches the bottom, and that one the top
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    edges = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]])
    counts = np.diff(edges).tolist()
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def cvat_runs(mask: np.ndarray) -> str:
    """CVAT's lengths of a mask (h, w) that is cut to its box: row by row, beginning with pixels outside."""
    return ", ".join(map(str, run_lengths(mask.ravel()).tolist()))


def brush_bytes(mask: np.ndarray) -> bytes:
    """Label Studio's brush format of a mask (h, w): the RGBA bytes of an image, packed as runs bit by bit.

    All four bytes of a pixel are 255 inside and 0 outside. A head has the number of bytes (32 bits), the bits of a
    value less 1 (5), and the four sizes of lengths less 1 (4 each). A run is a bit 1, which of the sizes its length
    has (2), the length less 1, and the value.
    """
    lengths = 4 * run_lengths(mask.ravel().astype(bool))
    values = np.where(np.arange(len(lengths)) % 2, 255, 0)
    lengths, values = _split(lengths, values, 1 << _BRUSH_BITS[-1])
    sizes = np.array(_BRUSH_BITS)
    chosen = np.searchsorted(1 << sizes, lengths)
    bits = sizes[chosen]
    fields = (((0b100 | chosen) << bits | (lengths - 1)) << 8) | values
    head = f"{mask.size * 4:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in _BRUSH_BITS)
    every = np.unpackbits(fields.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    used = np.arange(32) >= 32 - (3 + bits + 8)[:, None]
    return np.packbits(np.concatenate([np.array(list(head), np.uint8), every[used]])).tobytes()


def from_run_lengths(lengths: Sequence[int], size: int) -> np.ndarray:
    """The inverse of `run_lengths`: booleans (size,). `ValueError` if the lengths are not those of so many."""
    counts = np.asarray(lengths, np.int64)
    if (counts < 0).any() or counts.sum() != size:
        raise ValueError("the runs are not those of a mask of this size")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def from_brush_bytes(data: Sequence[int], height: int, width: int) -> np.ndarray:
    """The inverse of `brush_bytes`: the pixels that are at least half opaque, booleans (h, w).

    Unlike those that are written here, a brush may have values other than 0 and 255, and single values between runs.
    `ValueError` if it is broken, or not of an image of this size.
    """
    bits = np.unpackbits(np.asarray(data, np.uint8))
    count, value_bits = _number(bits, 0, 32), _number(bits, 32, 5) + 1
    sizes = [_number(bits, 37 + 4 * index, 4) + 1 for index in range(4)]
    if count != 4 * height * width or value_bits != 8:
        raise ValueError("the brush is not of an image of this size")
    values, place, done = np.empty(count, np.uint8), 53, 0
    while done < count:
        is_run, size = _number(bits, place, 1), sizes[_number(bits, place + 1, 2)]
        length = _number(bits, place + 3, size) + 1
        place += 3 + size
        end = place + 8 * (1 if is_run else length)
        if done + length > count or end > len(bits):
            raise ValueError("the brush is cut, or has more pixels than the image")
        values[done : done + length] = np.packbits(bits[place:end])
        place, done = end, done + length
    return values.reshape(height, width, 4)[..., 3] >= 128


def _number(bits: np.ndarray, place: int, size: int) -> int:
    """The number in so many bits from a place on, the highest first."""
    if place + size > len(bits):
        raise ValueError("the brush is cut")
    return int.from_bytes(np.packbits(bits[place : place + size]).tobytes(), "big") >> (-size % 8)


def _split(lengths: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs with the same content and at most ``most`` elements each, none of them empty."""
    pieces = -(-lengths // most)
    split = np.full(pieces.sum(), most, np.int64)
    split[np.cumsum(pieces)[pieces > 0] - 1] = (lengths - (pieces - 1) * most)[pieces > 0]
    return split, np.repeat(values, pieces)
