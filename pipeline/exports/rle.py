"""Run-length encodings of binary masks, as COCO, CVAT and Label Studio have them."""

from __future__ import annotations

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


def _split(lengths: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs with the same content and at most ``most`` elements each, none of them empty."""
    pieces = -(-lengths // most)
    split = np.full(pieces.sum(), most, np.int64)
    split[np.cumsum(pieces)[pieces > 0] - 1] = (lengths - (pieces - 1) * most)[pieces > 0]
    return split, np.repeat(values, pieces)
