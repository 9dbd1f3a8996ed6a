"""MNIST for benchmarks: the four IDX files of LeCun et al. 1998 under ``PARQUETRY_DATA/mnist``, and training on it."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import config, models, package
from pipeline.images.augment import AugmentConfig
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.ladder_vae import LadderVAEConfig
from pipeline.models.objectives.objective import ObjectiveConfig
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

#: The last images of the training set are held out wherever something is chosen, and from all training.
HELD_OUT = 10_000
SIZE_PX = 28

_STEMS = {"train": "train", "test": "t10k"}
# As many of the held-out images choose the best of a training's weights.
_VALIDATION_IMAGES = 1_000
_CHECKPOINT_S = 60.0
_KEPT_AS_IT_IS = AugmentConfig(flip=False, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, color=0.0)


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """Images (n, 28, 28) uint8, white on black, and labels (n,) int64 of the official splits."""

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An autoencoder, and how it is trained."""

    model: ConvVAEConfig | LadderVAEConfig
    train: TrainConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    binarise: bool = False

    @property
    def architecture(self) -> str:
        return "conv_vae" if isinstance(self.model, ConvVAEConfig) else "ladder_vae"

    @property
    def task(self) -> ImageReconstruction:
        return ImageReconstruction(
            height_px=SIZE_PX,
            width_px=SIZE_PX,
            channels=1,
            binarise=self.binarise,
            objective=self.objective,
            augmentation=_KEPT_AS_IT_IS,
        )


def load_all(folder: Path) -> Mnist:
    """All of it."""
    images, labels = load(folder, "train")
    test, test_labels = load(folder, "test")
    return Mnist(
        train=images[:-HELD_OUT],
        train_labels=labels[:-HELD_OUT],
        held_out=images[-HELD_OUT:],
        held_out_labels=labels[-HELD_OUT:],
        test=test,
        test_labels=test_labels,
    )


def rows(images: np.ndarray) -> pa.Table:
    """Images (n, 28, 28) uint8 as `ImageReconstruction.prepare_samples` makes them of files."""
    colour = np.repeat(images[..., None], 3, axis=-1)
    size = pa.array(np.full(len(images), SIZE_PX, np.int32))
    sizes = dict.fromkeys(("height", "width", "valid_height", "valid_width"), size)
    return pa.table({"image": pa.array([image.tobytes() for image in colour], pa.large_binary()), **sizes})


def unit(images: np.ndarray) -> Float[Tensor, "n 1 h w"]:
    """Images (n, 28, 28) uint8 as a model takes them."""
    return torch.from_numpy(images.copy()).unsqueeze(1).float() / 255


def drawn(images: np.ndarray, seed: int) -> Float[Tensor, "n 1 h w"]:
    """Images binarised by one Bernoulli draw, each value being the chance of 1."""
    generator = torch.Generator().manual_seed(seed)
    chances = unit(images)
    return (torch.rand(chances.shape, generator=generator) < chances).float()


def trained(
    work: Path, name: str, arm: Arm, data: Mnist, device: torch.device | None = None
) -> tuple[Autoencoder, dict[str, Any]]:
    """The model of an arm, trained where it is not there yet, in eval mode; and its record.

    ``work``/``name`` has the package, a checkpoint of every minute from which an interrupted training goes on, and
    ``record.json``: metrics on the held-out images, CPU and wall seconds. Another arm in its place is an error.
    """
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    settings, described = _settings(arm), folder / "arm.json"
    if described.exists() and json.loads(described.read_text()) != json.loads(json.dumps(settings)):
        raise SystemExit(f"{folder} holds a training with other settings; name another --work or remove it")
    described.write_text(json.dumps(settings, indent=2))
    done = folder / "record.json"
    if not done.exists():
        found = _train(folder, arm, data, device)
        done.write_text(json.dumps(found, indent=2))
    model = package.load(str(folder), "autoencoder").model()
    assert isinstance(model, Autoencoder)
    return model, json.loads(done.read_text())


def _train(folder: Path, arm: Arm, data: Mnist, device: torch.device | None) -> dict[str, Any]:
    training, validation = (Samples([rows(images)]) for images in (data.train, data.held_out[:_VALIDATION_IMAGES]))
    trainer = Trainer(arm.task, _new(arm), arm.train, training, validation, device)
    checkpoints = Checkpoints(str(folder / "checkpoints"), config.digest(_settings(arm)))
    newest, spent = checkpoints.newest(), {"cpu_s": 0.0, "wall_s": 0.0}
    if newest is not None:
        spent = json.loads(checkpoints.restore(trainer, newest)["spent"])
    cpu, wall, saved = time.process_time(), time.monotonic(), time.monotonic()

    def now() -> dict[str, float]:
        return {
            "cpu_s": spent["cpu_s"] + time.process_time() - cpu,
            "wall_s": spent["wall_s"] + time.monotonic() - wall,
        }

    for progress in trainer.run():
        if progress.metrics:
            line = {"step": progress.step, "steps": progress.steps, **progress.losses, **progress.metrics, **now()}
            print(folder.name, {key: round(value, 3) for key, value in line.items()}, flush=True)
            with (folder / "history.jsonl").open("a") as history:
                history.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > _CHECKPOINT_S:
            checkpoints.write(trainer, {"spent": json.dumps(now())})
            saved = time.monotonic()
    found = {"metrics": trainer.best_metrics, "steps": trainer.step, **now()}
    card = {"data": "MNIST, training images but the last 10,000", "metrics": trainer.best_metrics}
    model = trainer.best_model()
    task = trainer.calibrated_task(model)
    package.save(str(folder), model_name=arm.architecture, model=model, task=task, card=card)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def _settings(arm: Arm) -> dict[str, Any]:
    return {name: config.to_dict(getattr(arm, name)) for name in ("task", "model", "train")}


def _new(arm: Arm) -> nn.Module:
    torch.manual_seed(arm.train.seed)
    return models.build(arm.architecture, config.to_dict(arm.model))


def load(folder: Path, split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) int64 of an official split."""
    images = _idx(folder / f"{_STEMS[split]}-images-idx3-ubyte.gz", header=16).reshape(-1, SIZE_PX, SIZE_PX)
    labels = _idx(folder / f"{_STEMS[split]}-labels-idx1-ubyte.gz", header=8).astype(np.int64)
    assert len(images) == len(labels), (len(images), len(labels))
    return images, labels


def _idx(file: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)
