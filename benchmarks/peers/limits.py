"""How fast each stage can be done on this machine at all: every known way alone, with every core busy.

A stage's limit is its fastest way. The limit of the whole is that of cores which do one stage after the other and
nothing else: no files, processes or tables between them, and no start-up.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2  # pyright: ignore[reportMissingImports]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.peers import opencv
from pipeline import package
from pipeline.engines import with_engine
from pipeline.images.inputs import decode_fitted
from pipeline.images.outputs import encode_mask
from pipeline.images.upsampling import class_strips, in_bands

_IMAGES = 32
_SECONDS = 2.0
_BATCH = 16
_PALETTE = tuple((index, index, index) for index in range(256))


def limits(images: Path, model: str, cores: int) -> dict[str, dict[str, float]]:
    """Of each stage, the seconds for an image and core of every way: {stage: {way: seconds}}."""
    ways = [(stage, way) for stage, found in WAYS.items() for way in found]
    seconds: dict[str, dict[str, float]] = {stage: {} for stage in WAYS}
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for stage, way in ways:
            found = pool.map(_alone, [(stage, way, str(images), model)] * cores, chunksize=1)
            seconds[stage][way] = statistics.mean(found)
    return seconds


def _alone(what: tuple[str, str, str, str]) -> float:
    """Seconds for an image in one way of a stage, while the other cores do the same."""
    stage, way, images, model = what
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sample = _Sample(images, model)
    run = WAYS[stage][way](sample)
    run()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        run()
        done += len(sample.data)
    return (time.perf_counter() - started) / done


class _Sample:
    """Some images, and what each stage makes of them."""

    def __init__(self, images: str, model: str) -> None:
        files = sorted(Path(images).iterdir())
        self.data = [file.read_bytes() for file in files[:: max(1, len(files) // _IMAGES)][:_IMAGES]]
        self.model = model
        self.boxed = [opencv.boxed(data) for data in self.data]
        self.network = package.load(model).model()
        self.batches = [
            torch.from_numpy(np.stack([box for box, _, _ in self.boxed[start : start + _BATCH]]))
            for start in range(0, len(self.boxed), _BATCH)
        ]
        scores = np.concatenate([opencv.logits(self.network, batch.numpy()) for batch in self.batches])
        self.scored = [(score, size, valid) for score, (_, size, valid) in zip(scores, self.boxed, strict=True)]
        self.masks = [opencv.mask(*item) for item in self.scored]
        self.pictures = [encode_mask(mask, _PALETTE) for mask in self.masks]


def _each(values: list[Any], do: Callable[..., Any]) -> Callable[[], None]:
    def run() -> None:
        for value in values:
            do(value)

    return run


def _forward(sample: _Sample, engine: Any) -> Callable[[], None]:
    model = with_engine(package.load(sample.model).model(), engine)

    def run() -> None:
        with torch.inference_mode():
            for batch in sample.batches:
                model(batch.permute(0, 3, 1, 2).float() / 255)

    return run


def _strips(item: tuple[np.ndarray, tuple[int, int], tuple[int, int]]) -> np.ndarray:
    scores, size, valid = item
    logits = torch.from_numpy(scores)[:, : valid[0], : valid[1]]
    return np.concatenate([*class_strips(in_bands(logits, *size), valid, size)])


def _simplejpeg(data: bytes) -> None:
    import simplejpeg  # pyright: ignore[reportMissingImports]

    with Image.open(io.BytesIO(data)) as header:
        width, height = header.size
    scale = min(opencv.HEIGHT_PX / height, opencv.WIDTH_PX / width)
    valid = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True, min_height=valid[0], min_width=valid[1])
    cv2.resize(pixels, valid[::-1], interpolation=cv2.INTER_AREA)


def _written(pictures: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        pq.write_table(pa.table({"mask": pictures}), io.BytesIO(), compression="none", use_dictionary=False)

    return run


WAYS: dict[str, dict[str, Callable[[_Sample], Callable[[], None]]]] = {
    "decode": {
        "ours": lambda sample: _each(
            sample.data, lambda data: decode_fitted(data, 1 << 30, opencv.HEIGHT_PX, opencv.WIDTH_PX)
        ),
        "opencv reduced": lambda sample: _each(sample.data, opencv.boxed),
        "simplejpeg": lambda sample: _each(sample.data, _simplejpeg),
    },
    "network": {
        "float32": lambda sample: _forward(sample, "float32"),
        "bfloat16": lambda sample: _forward(sample, "bfloat16"),
    },
    "mask": {
        "ours": lambda sample: _each(sample.scored, _strips),
        "opencv planes": lambda sample: _each(sample.scored, lambda item: opencv.mask(*item)),
    },
    "png": {
        "ours": lambda sample: _each(sample.masks, lambda mask: encode_mask(mask, _PALETTE)),
        "opencv": lambda sample: _each(sample.masks, opencv.png),
    },
    "write": {"pyarrow": lambda sample: _written(sample.pictures)},
}
