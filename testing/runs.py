"""A small run as tests make it: images of noise, a package that nothing has trained, and a table of their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import package
from pipeline.distributed.run import Run, RunConfig, RunPlan
from pipeline.distributed.stages import StreamConfig
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.package import Package
from pipeline.task import Task

TASK = ImageSegmentation(
    classes=("a", "b", "c"), palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)), height_px=24, width_px=32
)


def write_package(folder: Path, seed: int) -> str:
    """A U-Net for `TASK`, with random weights."""
    torch.manual_seed(seed)
    model = UNet(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1)))
    return package.save(str(folder), model_name="unet", model=model, task=TASK, card={}).uri


def write_images(folder: Path, count: int, seed: int = 0, largest: int = 60) -> Path:
    """PNG files of noise, of 1 to ``largest`` pixels on either side."""
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
    """A run that has not begun; ``settings`` are those of `RunConfig`."""
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
    """A whole run of one actor with small blocks, unless ``stream`` says otherwise; its summary says how it ended."""
    settings_of_stream: dict[str, Any] = {"actors": 1, "batch_rows": 4, "block_rows": 8} | (stream or {})
    config = StreamConfig(**settings_of_stream)
    made = new_run([source], package.load(model), sink, stream=config, **settings)
    made.live()
    return made
