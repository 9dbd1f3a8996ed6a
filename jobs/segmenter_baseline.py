"""The gradient boosting of single pixels beside a segmenter: as a figure to beat, and as a package of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jobs import console
from pipeline import config, storage
from pipeline.distributed import train
from pipeline.distributed.preparation import Preparation
from pipeline.images.pixel_baseline import baseline, pixels_model
from pipeline.images.task import ImageSegmentation
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.life import store_json
from pipeline.training.trainer import calibrated_task, statistics

PIXELS = "pixels"


def compare(
    out: str, task: ImageSegmentation, metrics: dict[str, float], training: Preparation, validation: Preparation
) -> dict[str, float]:
    """The baselines' figures beside those of a training that is done; they stay in ``OUT/baseline.json``."""
    where = storage.join(out, "baseline.json")
    if storage.exists(where):
        found = json.loads(storage.read(where))
    else:
        found = config.to_dict(baseline(task, training.prepare().load(), validation.prepare().load()))
        store_json(where, found)
    mine, theirs = metrics["miou"], found["pixels_miou"]
    figures = f"{mine:.3f}, {theirs:.3f} of a gradient boosting of single pixels, {found['majority_miou']:.3f} of the "
    console.say(f"validation mIoU {figures}majority class")
    if mine <= theirs:
        console.warn(
            "the network is no better than a gradient boosting that looks at single pixels: give it more time "
            "(--minutes), look at the labels in the training's page, or use --architecture pixels"
        )
    return found


def fit_pixels(
    plan: train.Plan, say: Callable[[str], None], check: Callable[[], None], *, cluster: ClusterConfig
) -> dict[str, Any]:
    """Fit the baseline in this process, as a `Fit` of `train_package`: its trees learn in one go, on no cluster."""
    assert isinstance(plan.task, ImageSegmentation)
    started = time.monotonic()
    say("fitting trees to single pixels")
    training, validation = plan.train.load(), plan.validation.load()
    model, rows = pixels_model(plan.task, training), plan.config.batch_rows
    check()
    everything = np.arange(len(validation))
    scores = statistics(plan.task, model, validation, everything, rows, plan.config.seed, torch.device("cpu"))
    summary = train.save_package(
        plan,
        model,
        calibrated_task(plan.task, model, validation, training, rows),
        plan.task.summarize(scores),
        samples=(len(training), len(validation)),
        steps=0,
        resumed=0,
        seconds=time.monotonic() - started,
    )
    train.conclude(plan, summary)
    return summary
