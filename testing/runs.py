"""Small runs for tests: images of noise, an untrained package, and a table of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import package
from pipeline.distributed.run import Run
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.package import Package
from pipeline.runs.plan import RunConfig, RunPlan, StreamConfig
from pipeline.task import Task

TASK = ImageSegmentation(
    classes=("a", "b", "c"), palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)), height_px=24, width_px=32
)


def write_package(folder: Path, seed: int) -> str:
    """Write a package with a U-Net for `TASK` that has random weights; returns its URI."""
    torch.manual_seed(seed)
    model = UNet(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1)))
    return package.save(str(folder), model_name="unet", model=model, task=TASK, card={}).uri


def write_images(folder: Path, count: int, seed: int = 0, largest: int = 60) -> Path:
    """Write PNG files of noise, with sides of 1 to ``largest`` pixels; returns the folder."""
    folder.mkdir(exist_ok=True)
    random_numbers = np.random.default_rng(seed)
    for number in range(count):
        height, width = random_numbers.integers(1, largest, 2)
        pixels = random_numbers.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return folder


def new_run(
    sources: Sequence[Path | str],
    model: Package,
    sink: Path | str,
    *,
    task: Task = TASK,
    stream: StreamConfig | None = None,
    **settings: Any,
) -> Run:
    """A run that has not begun. ``settings`` are those of `RunConfig`."""
    plan = RunPlan(
        task=task,
        package=model,
        sources=tuple(map(str, sources)),
        sink=str(sink),
        config=RunConfig(**settings),
        stream=stream or StreamConfig(actors=1),
    )
    return Run(plan, lambda _: None)


def run(source: Path, model: str, sink: Path, *, stream: dict[str, Any] | None = None, **settings: Any) -> Run:
    """Do a run with one actor and small blocks, unless ``stream`` says otherwise. Its summary tells how it ended."""
    settings_of_stream: dict[str, Any] = {"actors": 1, "batch_rows": 4, "block_rows": 8} | (stream or {})
    config = StreamConfig(**settings_of_stream)
    made = new_run([source], package.load(model), sink, stream=config, **settings)
    made.live()
    return made
