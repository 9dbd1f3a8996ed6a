"""Regions without labels: how well things come apart in drawn scenes of two to four shapes.

A network (`slot_vae`) is trained on 8,000 scenes of 32 x 32 pixels, from three seeds, and never sees a mask. Measured
is the foreground ARI: the adjusted Rand index of its regions and the true shapes over the pixels of shapes, mean over
320 other scenes. Its interval is 95 % of Student's t over the seeds. ``ari`` counts the background, too. Settings were
chosen on other scenes still. Resumable: trainings go on from their last checkpoint, and what is measured is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from benchmarks.record import record
from pipeline import config, models, package
from pipeline.examples.sprites import sprite_scenes
from pipeline.generation.layers import draw_scenes, layer_grid
from pipeline.images.grids import encode_png
from pipeline.images.outputs import decode_mask
from pipeline.images.regions import UNCHANGED, ImageRegions
from pipeline.models.regions.slot_vae import SlotVAE, SlotVAEConfig
from pipeline.quality.rand_index import adjusted_rand_index, foreground_ari
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

SIZE_PX = 32
MODEL = SlotVAEConfig(slots=5)
TASK = ImageRegions.of(MODEL.slots, height_px=SIZE_PX, width_px=SIZE_PX, augmentation=UNCHANGED)
TRAIN = TrainConfig(
    epochs=8,
    batch_rows=16,
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_fraction=0.03,
    precision="bfloat16",
    evaluate_every_epochs=4,
)
#: Seeds of the scenes of each part; those of the parts differ.
_TRAINING, _VALIDATION, _TEST = 0, 1, 2
_CHECKPOINT_S = 60.0
_ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/regions"), help="where packages go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--small", action="store_true", help="one seed and a few steps: shows only that it runs")
    parser.add_argument(
        "--picture", type=Path, help="write a picture of the layers of the first seed there, no figures"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more threads wait for each other, where others use the cores too
    seeds, scenes, settings, tested = arguments.seeds, 8000, TRAIN, 320
    if arguments.small:
        seeds, scenes, settings, tested = seeds[:1], 160, replace(TRAIN, epochs=2), 32
    folder = arguments.work / ("small" if arguments.small else "")
    if arguments.picture is not None:
        model = trained(folder / str(seeds[0]), replace(settings, seed=seeds[0]), scenes)[1]
        arguments.picture.write_bytes(picture(model))
        return
    rows = [measured(folder / str(seed), replace(settings, seed=seed), scenes, tested) for seed in seeds]
    low, high = interval([row["foreground_ari"] for row in rows])
    headline = {
        "foreground_ari": statistics.mean(row["foreground_ari"] for row in rows),
        "foreground_ari_low": low,
        "foreground_ari_high": high,
        "cpu_minutes_a_seed": statistics.mean(row["cpu_minutes"] for row in rows),
    }
    record("regions", rows, headline, str(__doc__), small=arguments.small)


def measured(folder: Path, settings: TrainConfig, scenes: int, tested: int) -> dict[str, Any]:
    """The row of a seed: its training is found or done, and its package measured on scenes that no seed has seen."""
    task, model, spent = trained(folder, settings, scenes)
    done = folder / "measured.json"
    if not done.exists():
        images, truth = sprite_scenes(_TEST, tested, SIZE_PX)
        masks = regions_of(task, model, images)
        inside = [foreground_ari(*pair) for pair in zip(truth, masks, strict=True)]
        whole = [adjusted_rand_index(*pair) for pair in zip(truth, masks, strict=True)]
        row = {
            "seed": settings.seed,
            "foreground_ari": float(np.mean([value for value in inside if value is not None])),
            "ari": float(np.mean(whole)),
            "regions": float(np.mean([len(np.unique(mask)) for mask in masks])),
            "bits_per_dimension": spent["metrics"]["bits_per_dimension"],
            "steps": spent["steps"],
            "cpu_minutes": spent["cpu_s"] / 60,
            "wall_minutes": spent["wall_s"] / 60,
        }
        done.write_text(json.dumps(row))
    return json.loads(done.read_text())


def regions_of(task: ImageRegions, model: SlotVAE, images: np.ndarray) -> np.ndarray:
    """The masks (n, h, w) of images (n, h, w, 3), as `segment_images` makes them."""
    prepared, found = samples_of(images), []
    for start in range(0, len(images), _ROWS):
        part = task.compressed(prepared.slice(start, _ROWS))
        rows = task.encode(task.predict(model, part, torch.device("cpu")))
        found += [decode_mask(item["bytes"]) for item in rows["mask"].to_pylist()]
    return np.stack(found)


def samples_of(images: np.ndarray) -> pa.Table:
    """Images (n, h, w, 3) uint8 as `ImageRegions.prepare_samples` makes them of files."""
    size = pa.array(np.full(len(images), SIZE_PX, np.int32))
    sizes = dict.fromkeys(("height", "width", "valid_height", "valid_width"), size)
    return pa.table({"image": pa.array([image.tobytes() for image in images], pa.large_binary()), **sizes})


def trained(folder: Path, settings: TrainConfig, scenes: int) -> tuple[ImageRegions, SlotVAE, dict[str, Any]]:
    """The task and the model of a seed, trained where they are not there yet; and what the training took."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = config.digest([config.to_dict(item) for item in (TASK, MODEL, settings)] + [scenes])
    done = folder / "record.json"
    if done.exists() and json.loads(done.read_text())["identity"] != identity:
        raise SystemExit(f"{folder} holds a training with other settings; name another --work or remove it")
    if not done.exists():
        done.write_text(json.dumps(_train(folder, settings, scenes, identity) | {"identity": identity}, indent=2))
    found = package.load(str(folder), ImageRegions.kind)
    model = found.model()
    assert isinstance(model, SlotVAE)
    return config.from_dict(ImageRegions, found.task), model, json.loads(done.read_text())


def _train(folder: Path, settings: TrainConfig, scenes: int, identity: str) -> dict[str, Any]:
    parts = ((_TRAINING, scenes), (_VALIDATION, max(16, scenes // 16)))
    training, validation = (Samples([samples_of(sprite_scenes(seed, count, SIZE_PX)[0])]) for seed, count in parts)
    torch.manual_seed(settings.seed)
    model = models.build("slot_vae", config.to_dict(MODEL))
    trainer = Trainer(TASK, model, settings, training, validation)
    checkpoints, spent = Checkpoints(str(folder / "checkpoints"), identity), {"cpu_s": 0.0, "wall_s": 0.0}
    newest = checkpoints.newest()
    if newest is not None:
        spent = json.loads(checkpoints.restore(trainer, newest)["spent"])
    cpu, wall, saved = time.process_time(), time.monotonic(), time.monotonic()

    def now() -> dict[str, float]:
        seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
        return {name: spent[name] + value for name, value in seconds.items()}

    for progress in trainer.run():
        if progress.metrics:
            line = {"step": progress.step, "steps": progress.steps, **progress.losses, **progress.metrics, **now()}
            print(folder.name, {key: round(value, 3) for key, value in line.items()}, flush=True)
        if time.monotonic() - saved > _CHECKPOINT_S:
            checkpoints.write(trainer, {"spent": json.dumps(now())})
            saved = time.monotonic()
    best = trainer.best_model()
    card = {"data": f"{scenes} drawn scenes", "metrics": trainer.best_metrics}
    package.save(str(folder), model_name="slot_vae", model=best, task=trainer.calibrated_task(best), card=card)
    return {"metrics": trainer.best_metrics, "steps": trainer.step, **now()}


def interval(values: list[float]) -> tuple[float | None, float | None]:
    """The ends of the interval of 95 % of Student's t around the mean; None for fewer than two values."""
    if len(values) < 2:
        return None, None
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.mean(values)
    return middle - reach, middle + reach


def picture(model: SlotVAE) -> bytes:
    """A PNG: on the left test scenes, their layers together and apart; on the right the same of scenes of the prior."""
    images = torch.from_numpy(sprite_scenes(_TEST, 8, SIZE_PX)[0]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        left = layer_grid(model.infer(images, None).layers, images)
    drawn = next(draw_scenes(model, range(8), seed=0, height=SIZE_PX, width=SIZE_PX))
    right = layer_grid(drawn)
    gap = np.full((len(left), 24, 3), 255, np.uint8)
    return encode_png(np.concatenate([left, gap, right], axis=1))


if __name__ == "__main__":
    main()
