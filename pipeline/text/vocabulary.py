"""The vocabulary of a corpus: pieces of subwords that are learned from some of its documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError, RequestError
from pipeline.rows import RECORD, InputKind
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text.reading import read_document
from pipeline.text.subwords import FIRST_PIECE, learn_pieces

#: Enough to learn pieces from; of a larger corpus only documents with so many characters are used.
MAX_CHARS = 20_000_000
_BATCH_ROWS = 64


def vocabulary_of(
    inputs: pa.Table, kind: InputKind, size: int, keep: Callable[[bytes], bool] | None = None, *, ocr: bool = False
) -> tuple[str, ...]:
    """The pieces of a vocabulary of at most ``size`` ids, from listed inputs.

    If they are too many, some are drawn at random, always the same. Those that cannot be read, and those whose bytes
    the function ``keep`` rejects, are left out. ``ocr`` as in `read_document`. `RequestError` if no text is left.
    """
    if size < FIRST_PIECE:
        raise RequestError(f"a vocabulary must have at least the {FIRST_PIECE} ids of single bytes, got {size}")
    found = learn_pieces(_texts(inputs, kind, keep, ocr), size - FIRST_PIECE)
    if not found:
        raise RequestError(f"no vocabulary can be learned from {inputs.num_rows} inputs: they have no text")
    return found


def _texts(inputs: pa.Table, kind: InputKind, keep: Callable[[bytes], bool] | None, ocr: bool) -> Iterator[str]:
    order = np.random.default_rng(0).permutation(inputs.num_rows)
    read = 0
    for start in range(0, len(order), _BATCH_ROWS):
        # Sorted, since neighbouring inputs are often in the same container and are read together.
        rows = inputs.take(np.sort(order[start : start + _BATCH_ROWS]))
        data, _ = fetch(rows, kind, FetchConfig())
        for content, form in zip(data, rows["format"].to_pylist(), strict=True):
            if content is None or (keep is not None and not (form == RECORD and keep(content))):
                continue
            try:
                text = read_document(content, form, ocr=ocr).text
            except InputError:  # the preparation of samples counts and names it
                continue
            read += len(text)
            yield text
        if read >= MAX_CHARS:
            return
