"""Pictures of rows for pages: an image with its mask, read from its source again, or the mask alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline import storage
from pipeline.errors import InputError
from pipeline.images.inputs import decode_image
from pipeline.images.outputs import Palette, decode_mask, overlay
from pipeline.quality.pages import CARD_PX, Card, Picture, embedded
from pipeline.rows import InputKind
from pipeline.source.entries import ENTRIES
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.storage.columnar import own_file, read_parquet

#: Limits for inputs that are read again for a page. Larger or slower ones are shown without their image.
READ_AGAIN = FetchConfig(max_bytes=64 << 20, threads=8, deadline_s=5.0)

Key = tuple[str, str | None]


def contents(
    rows: Sequence[Mapping[str, Any]], kind: InputKind, manifest: str, until: float
) -> dict[Key, tuple[bytes, str]]:
    """The bytes and the format of the inputs of some rows, as they were when the run read them.

    Inputs that are gone, changed, too large or too slow are left out. ``manifest``: the folder with the run's listing,
    which knows where an input lies in its container. ``until``: the time (monotonic) after which no listing is read.
    """
    wanted = {(row["uri"], row["member"]): row for row in rows}
    entries: list[dict[str, Any]] = []
    for shard in storage.names(manifest):
        if len(entries) == len(wanted) or time.monotonic() > until:
            break
        where = storage.join(manifest, shard)
        with own_file(where):
            listed: pa.Table = read_parquet(storage.read(where), ENTRIES.names)
        uris = pa.array({uri for uri, _ in wanted}, pa.string())
        listed = listed.filter(pc.call_function("is_in", [listed["uri"]], pc.SetLookupOptions(uris)))
        entries += [entry for entry in listed.to_pylist() if (entry["uri"], entry["member"]) in wanted]
    if not entries:
        return {}
    data, _ = fetch(pa.Table.from_pylist(entries, ENTRIES), kind, READ_AGAIN)
    return {
        (entry["uri"], entry["member"]): (content, entry["format"])
        for entry, content in zip(entries, data, strict=True)
        if content is not None
    }


def masked_pictures(
    mask_file: bytes, data: bytes | None, palette: Palette, max_pixels: int
) -> list[tuple[str, Picture]]:
    """An image and the same with its mask over it, both small; or the mask alone if there is no such image."""
    mask = decode_mask(mask_file)
    try:
        image = None if data is None else decode_image(data, max_pixels)
    except (InputError, MemoryError):
        image = None
    if image is None or image.shape[:2] != mask.shape:
        return [("mask", embedded(coloured(_smaller(mask), palette)))]
    image, mask = _smaller(image), _smaller(mask)
    return [("image", embedded(image)), ("mask", embedded(overlay(image, mask, palette)))]


def plain_picture(data: bytes, max_pixels: int) -> Picture | None:
    """An image, small; None if it cannot be decoded."""
    try:
        return embedded(_smaller(decode_image(data, max_pixels)))
    except (InputError, MemoryError):
        return None


def coloured(mask: np.ndarray, palette: Palette) -> np.ndarray:
    """A mask (h, w) in the colours of its classes, uint8 (h, w, 3)."""
    return overlay(np.zeros((*mask.shape, 3), np.uint8), mask, palette, opacity=1.0)


def beside(name: str, pictures: Sequence[tuple[str, np.ndarray]], lines: Sequence[str] = ()) -> Card:
    """A card with two pictures of the same size (h, w, 3), such as truth and prediction."""
    return Card(name=name, pictures=[(label, embedded(_smaller(found))) for label, found in pictures], lines=lines)


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """An image or a mask whose longest side is that of a card, so that both are cut alike."""
    height, width = pixels.shape[:2]
    factor = CARD_PX / max(height, width)
    if factor >= 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    rows, columns = (
        (np.arange(count) + 0.5) * old / count for count, old in zip(size[::-1], pixels.shape, strict=True)
    )
    return pixels[rows.astype(int)][:, columns.astype(int)]
