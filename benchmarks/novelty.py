"""Strange images for an autoencoder of digits, and how well its novelty tells them from digits it has not seen."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score

from benchmarks import mnist
from benchmarks.mnist import SIZE_PX, Mnist
from pipeline.images.inputs import decode_image
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.interface import Autoencoder

_LETTERS = "ABCDEFGHJKLMNPQRTUVWXYZabdefghkmnpqrty"
_BATCH = 500


def strangers(folder: Path, data: Mnist, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Foreign images (count, 28, 28) uint8 by name, from the real data in ``folder``."""
    generator = np.random.default_rng(seed)
    constants = np.linspace(0, 255, count).round().astype(np.uint8)
    return {
        "uniform noise": generator.integers(0, 256, (count, SIZE_PX, SIZE_PX), np.uint8),
        "constant gray": np.broadcast_to(constants[:, None, None], (count, SIZE_PX, SIZE_PX)).copy(),
        "inverted digits": 255 - data.test[:count],
        "printed letters": np.stack([_letter(generator) for _ in range(count)]),
        "books as images": _pages(folder / "books" / "books.jsonl.gz", count, generator),
        "street scenes": _crops(folder / "camvid" / "images" / "test", count, generator),
    }


def rows(model: Autoencoder, task: ImageReconstruction, familiar: np.ndarray, strange: dict[str, np.ndarray]) -> Any:
    """AUROC of novelty, and of the likelihood that it corrects, for each kind of stranger against unseen digits."""
    known = _scores(model, task, familiar)
    lines = []
    for name, images in strange.items():
        found = _scores(model, task, images)
        line: dict[str, Any] = {"strangers": name, "images": len(images)}
        for column in ("novelty_raw", "novelty", "bits_per_dimension"):
            truth = np.r_[np.zeros(len(known[column])), np.ones(len(found[column]))]
            line[f"auroc {column}"] = float(roc_auc_score(truth, np.r_[known[column], found[column]]))
        lines.append(line)
    return lines


def calibrated(model: Autoencoder, task: ImageReconstruction, data: Mnist) -> ImageReconstruction:
    """The task with its reference: the held-out images."""
    table = mnist.rows(data.held_out)
    starts = range(0, table.num_rows, _BATCH)
    return task.calibrated(model, (table.slice(start, _BATCH) for start in starts))


def _scores(model: Autoencoder, task: ImageReconstruction, images: np.ndarray) -> dict[str, np.ndarray]:
    table = mnist.rows(images)
    columns = ("novelty", "novelty_raw", "bits_per_dimension")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for start in range(0, table.num_rows, _BATCH):
        found = task.predict(model, task.compressed(table.slice(start, _BATCH)), torch.device("cpu"))
        for name in columns:
            parts[name].append(found[name].to_numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _letter(generator: np.random.Generator) -> np.ndarray:
    """A capital or small letter that does not look like a digit, white on black, as large as a digit."""
    font = ImageFont.load_default(float(generator.integers(20, 27)))
    image = Image.new("L", (SIZE_PX, SIZE_PX))
    letter = _LETTERS[int(generator.integers(len(_LETTERS)))]
    ImageDraw.Draw(image).text((SIZE_PX / 2, SIZE_PX / 2), letter, font=font, fill=255, anchor="mm")
    return np.asarray(image)


def _pages(file: Path, count: int, generator: np.random.Generator) -> np.ndarray:
    """Three short lines of a book in each image."""
    lines = gzip.decompress(file.read_bytes()).splitlines()[:20]
    text = " ".join(" ".join(json.loads(line)["text"] for line in lines).split())
    font = ImageFont.load_default(11.0)
    found = []
    for start in generator.integers(0, len(text) - 30, count).tolist():
        image = Image.new("L", (SIZE_PX, SIZE_PX))
        canvas = ImageDraw.Draw(image)
        for row in range(3):
            canvas.text((0, 10 * row - 2), text[start + 8 * row : start + 8 * row + 8], font=font, fill=255)
        found.append(np.asarray(image))
    return np.stack(found)


def _crops(folder: Path, count: int, generator: np.random.Generator) -> np.ndarray:
    """Windows of photographs, in gray, at their own resolution."""
    files = sorted(folder.iterdir())
    found = []
    for index in range(count):
        photograph = Image.fromarray(decode_image(files[index % len(files)].read_bytes(), 10**7)).convert("L")
        left, top = (int(generator.integers(size - SIZE_PX)) for size in photograph.size)
        found.append(np.asarray(photograph.crop((left, top, left + SIZE_PX, top + SIZE_PX))))
    return np.stack(found)
