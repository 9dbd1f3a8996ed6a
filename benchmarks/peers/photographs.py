"""Photographs of mixed sizes, as JPEG: pictures of the given ones, scaled to 0.1 to 4 megapixels and made grainy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.examples import scenes

_DISTINCT = 240
_MEGAPIXELS = (0.1, 4.0)
_ASPECTS = (4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9)
_QUALITY = 85
_GRAIN = 4.0  # standard deviation


def write_photographs(folder: Path, count: int, sources: Path | None) -> str:
    """Write ``count`` photographs, of which up to 240 are different; returns what they are.

    ``sources``: a folder with pictures; None: drawn scenes. Sizes are drawn evenly from the logarithm of their area.
    """
    given = sorted(sources.rglob("*.jpg")) if sources is not None else []
    folder.mkdir(parents=True, exist_ok=True)
    random_numbers = np.random.default_rng(0)
    for number in range(min(count, _DISTINCT)):
        area = 1e6 * np.exp(random_numbers.uniform(*np.log(_MEGAPIXELS)))
        aspect = _ASPECTS[number % len(_ASPECTS)]
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if given:
            picture = Image.open(given[number * len(given) // _DISTINCT])
        else:
            picture = Image.fromarray(scenes.scene(number, 360, 480)[0])
        pixels = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = random_numbers.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)
        found = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        found.save(folder / f"{number:06d}.jpg", quality=_QUALITY)
    for number in range(_DISTINCT, count):
        original = folder / f"{number % _DISTINCT:06d}.jpg"
        try:
            os.link(original, folder / f"{number:06d}.jpg")
        except OSError:
            shutil.copy(original, folder / f"{number:06d}.jpg")
    return "road scenes" if given else "drawn scenes"
