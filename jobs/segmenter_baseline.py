"""The gradient boosting of single pixels beside a segmenter: as a figure to beat, and as a package of its own."""

from __future__ import annotations

import json
import time
from typing import Any

from jobs.console import say, warn
from jobs.training import TrainSettings, command_line
from pipeline import config, package, storage
from pipeline.distributed.preparation import Preparation
from pipeline.images.pixel_baseline import baseline, pixels_model
from pipeline.images.task import ImageSegmentation
from pipeline.runs.life import store_json
from pipeline.training.trainer import TrainConfig, Trainer

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
    say(f"validation mIoU {figures}majority class")
    if mine <= theirs:
        warn(
            "the network is no better than a gradient boosting that looks at single pixels: give it more time "
            "(--minutes), look at the labels in the training's page, or use --architecture pixels"
        )
    return found


def fit_pixels(
    settings: TrainSettings, task: ImageSegmentation, training: Preparation, validation: Preparation
) -> dict[str, Any]:
    """Fit the baseline, and write it as a package of its own."""
    started = time.monotonic()
    learned, held = training.prepare(), validation.prepare()
    learned.check_truth(task, "training")
    model = pixels_model(task, learned.load())
    trainer = Trainer(task, model, TrainConfig(batch_rows=4), learned.load(), held.load())
    metrics = trainer.evaluate()
    card = {"command": command_line(), "metrics": metrics, "training samples": learned.rows}
    saved = package.save(settings.out, model_name=PIXELS, model=model, task=task, card=card)
    return {
        "package": saved.uri,
        "digest": saved.digest,
        "metrics": metrics,
        "training_seconds": round(time.monotonic() - started, 1),
        "parameters": sum(value.numel() for value in model.state_dict().values()),
        "status": "done",
    }
