"""Training of a segmenter against a plain loop on tensors in memory, and two workers against one.

The plain loop has the same network, augmentation, loss, optimiser, clipping and averaged weights. But its batches are
tensors in memory already, and it does nothing else: no samples in Arrow tables, no losses for people, no evaluation.
Both run in turn in one process, on all cores. ``bare`` is the loop without augmentation, clipping and averaged weights.
Two workers with a thread each are compared with one, by the time that four more epochs take ``train_image_segmenter``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.camvid import job
from benchmarks.record import record
from pipeline.examples import scenes
from pipeline.images.augment import augment_images
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.noise import Noise
from pipeline.training.optimiser import AveragedWeights, parameter_groups
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

_HEIGHT_PX, _WIDTH_PX, _ROWS = 180, 240, 8
_SAMPLES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=24, help="of each round")
    parser.add_argument("--small", action="store_true", help="two rounds of four steps, and no second worker")
    arguments = parser.parse_args()
    rounds, steps = (2, 4) if arguments.small else (arguments.rounds, arguments.steps)
    task, images, labels = data()
    rows = []
    for precision in ("float32", "bfloat16"):
        rates: dict[str, list[float]] = {"ours": [], "plain": [], "bare": []}
        for _ in range(rounds):
            rates["ours"].append(ours(task, images, labels, precision, steps))
            rates["plain"].append(plain(task, images, labels, precision, steps, is_bare=False))
            rates["bare"].append(plain(task, images, labels, precision, steps, is_bare=True))
        found = {name: statistics.median(values) for name, values in rates.items()}
        rows.append(
            {
                "precision": precision,
                **{f"{name}, samples/s": value for name, value in found.items()},
                "ratio to plain": statistics.median(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)),
                "ratio to bare": statistics.median(a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)),
            }
        )
    headline: dict[str, Any] = {"ratio_to_plain_loop": min(row["ratio to plain"] for row in rows)}
    headline["speedup_two_workers"] = None if arguments.small else speedup()
    record("training", rows, headline, __doc__ or "", small=arguments.small)


def data() -> tuple[ImageSegmentation, torch.Tensor, torch.Tensor]:
    """The task, images (n, 3, h, w) and labels (n, h, w), uint8."""
    pairs = [scenes.scene(seed, _HEIGHT_PX, _WIDTH_PX) for seed in range(_SAMPLES)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(np.stack([label for _, label in pairs]))
    return ImageSegmentation(classes=scenes.CLASSES, palette=scenes.PALETTE), images, labels


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(classes=len(scenes.CLASSES), widths=(16, 32, 64, 96)))


def ours(task: ImageSegmentation, images: torch.Tensor, labels: torch.Tensor, precision: Any, steps: int) -> float:
    """Samples per second of `Trainer` in its steps, after the first."""
    columns = {
        "image": [image.permute(1, 2, 0).numpy().tobytes() for image in images],
        "label": [label.numpy().tobytes() for label in labels],
    }
    samples = Samples([pa.table(columns, pa.schema([(name, pa.large_binary()) for name in columns]))])
    epochs = -(-(steps + 2) * _ROWS // _SAMPLES)
    config = TrainConfig(epochs=epochs, batch_rows=_ROWS, precision=precision, evaluate_every_epochs=epochs)
    running = Trainer(task, network(), config, samples, samples).run()
    next(running)
    started = time.perf_counter()
    for _ in range(steps):
        next(running)
    return steps * _ROWS / (time.perf_counter() - started)


def plain(
    task: ImageSegmentation, images: torch.Tensor, labels: torch.Tensor, precision: str, steps: int, *, is_bare: bool
) -> float:
    """Samples per second of a loop as one would write it."""
    model = network().train()
    optimizer = torch.optim.AdamW(parameter_groups(model.parameters(), 0.01), lr=1e-3, fused=True)
    averaged = AveragedWeights(model, 0.998)
    order = torch.randperm(_SAMPLES)

    def step(number: int) -> None:
        rows = order[(number * _ROWS) % _SAMPLES :][:_ROWS]
        image, label = images[rows].float() / 255, labels[rows]
        if not is_bare:
            image, label = augment_images(image, label, task.augmentation, Noise(0, number, rows.tolist()))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(image)
        assert label is not None
        loss = F.cross_entropy(logits.float(), label.long(), ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not is_bare:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not is_bare:
            averaged.update(number)

    return _rate(step, steps)


def speedup() -> float:
    """How many times as fast two workers of a thread each train as one."""
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        scenes.write_scenes(f"{folder}/scenes", {"train": 160, "val": 8}, height=_HEIGHT_PX, width=_WIDTH_PX)
        seconds = {}
        for workers in (1, 2):
            for epochs in (1, 5):
                given = ["--images", f"{folder}/scenes", "--out", Path(folder) / f"{workers}-{epochs}"]
                given += ["--recipe", "none", "--baseline", "none", "--train.epochs", epochs]
                given += ["--train.evaluate_every_epochs", epochs, "--train.workers", workers, "--train.threads", 1]
                seconds[workers, epochs] = job("train_image_segmenter", *given)["training_seconds"]
    one, two = (seconds[workers, 5] - seconds[workers, 1] for workers in (1, 2))
    return one / two


def _rate(step: Callable[[int], None], steps: int) -> float:
    step(0)
    started = time.perf_counter()
    for number in range(1, steps + 1):
        step(number)
    return steps * _ROWS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
