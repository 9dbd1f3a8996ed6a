"""Train a classifier of images on the latents of an autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.cli import main
from jobs.training import TrainSettings, require_folder, train_package
from pipeline import config, models, package, storage
from pipeline.config import check
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.distributed.session import session
from pipeline.errors import RequestError
from pipeline.images.classification import ImageClassification, check_labels
from pipeline.images.classifier_fitting import ClassifierFitConfig
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.classifiers.latent_classifier import LatentClassifier, LatentClassifierConfig, take_autoencoder
from pipeline.package import Package
from pipeline.runs.cluster import ClusterConfig
from pipeline.source.labelled import all_inputs, class_inputs, held_out, joined
from pipeline.training.trainer import calibrated_task, statistics

_NAME = "latent_classifier"


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(TrainSettings):
    """Train a classifier of images on the latents of an autoencoder."""

    images: str
    """Folder that has a folder of images for each class. If it has train.txt, only the images listed there are used;
    val.txt lists those of the validation."""
    model: str
    """URI of the model package of an autoencoder that was trained on such images."""
    unlabelled: str | None = None
    """Images without labels, which the classifier learns from, too: a folder, an archive or a Parquet file."""
    views: int = 8
    """Views of an image whose answers are averaged: the image itself, and the image moved a little."""
    movement: float = 0.5
    """How far views are moved; at 1 the deviations are 7 degrees, 12 % of the size, a twentieth of the image."""
    fit: ClassifierFitConfig = field(default_factory=ClassifierFitConfig)
    seed: int = 0
    """Seed of the classifier's weights, the order of images, and what is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "views", self.views >= 1, "be at least 1")
        check(self, "movement", self.movement >= 0, "not be negative")
        check(self, "seed", self.seed >= 0, "not be negative")


def work(settings: TrainClassifier) -> dict[str, Any]:
    require_folder(settings.images, "images")
    train.claim(settings.out)
    found = package.load(settings.model, ImageReconstruction.kind)
    learned, validation = _inputs(settings)
    classes = _classes(settings, learned, validation)
    task = ImageClassification(
        classes=classes,
        autoencoder=config.from_dict(ImageReconstruction, found.task),
        views=settings.views,
        movement=settings.movement,
        fit=settings.fit,
    )
    network = _network(settings, found, task)
    copy = train.CopyWeights.of(found, take_autoencoder, into=models.build(_NAME, network))
    with session(settings.cluster):
        return train_package(
            settings,
            task=task,
            model_name=_NAME,
            model_config=network,
            train_config=train.DistributedTrainConfig(seed=settings.seed),
            training=Preparation(learned, task, settings.out, part=TRAINING),
            validation=Preparation(validation, task, settings.out, part=VALIDATION),
            data={"images": settings.images, "unlabelled": settings.unlabelled, "autoencoder": found.digest},
            copies=(copy,),
            fit=fit,
        )


def fit(
    plan: train.Plan, say: Callable[[str], None], check: Callable[[], None], *, cluster: ClusterConfig
) -> dict[str, Any]:
    """Fit the classifier in this process, as a `Fit` of `train_package`: it is small, and the latents are in memory."""
    assert isinstance(plan.task, ImageClassification)
    started = time.monotonic()
    check_labels(plan.train.truth)
    training, validation = plan.train.load(), plan.validation.load()
    torch.manual_seed(plan.config.seed)
    model = models.build(plan.model_name, plan.model_config)
    for copy in plan.copies:
        copy(model)
    assert isinstance(model, LatentClassifier)
    plan.task.fitted(model, training, plan.config.seed, say)
    check()
    rows = plan.config.batch_rows
    task = calibrated_task(plan.task, model, validation, training, rows)
    everything = np.arange(len(validation))
    scores = statistics(task, model, validation, everything, rows, plan.config.seed, torch.device("cpu"))
    metrics = task.summarize(scores)
    say(f"validation accuracy {metrics['accuracy']:.4f}, calibration error {metrics['calibration_error']:.4f}")
    summary = train.save_package(
        plan,
        model,
        task,
        metrics,
        samples=(len(training), len(validation)),
        steps=plan.task.fit.steps,
        resumed=0,
        seconds=time.monotonic() - started,
    )
    train.conclude(plan, summary)
    return summary


def _inputs(settings: TrainClassifier) -> tuple[pa.Table, pa.Table]:
    """The inputs of the training, those without labels last, and those of the validation."""
    kind = ImageClassification.inputs
    lists = {name: storage.exists(storage.join(settings.images, f"{name}.txt")) for name in ("train", "val")}
    if lists["val"] and not lists["train"]:
        raise RequestError(f"images {settings.images!r}: val.txt needs train.txt beside it")
    learned = class_inputs(settings.images, kind, "train" if lists["train"] else None)
    if lists["val"]:
        validation = class_inputs(settings.images, kind, "val")
    else:
        learned, validation = held_out(learned, settings.validation_fraction)
    if settings.unlabelled is not None:
        learned = joined([learned, all_inputs(settings.unlabelled, kind)])
    return learned, validation


def _classes(settings: TrainClassifier, learned: pa.Table, validation: pa.Table) -> tuple[str, ...]:
    """The names of the classes, sorted. `RequestError` if there is one alone, or one without a training image."""
    classes, held = (set(part["label"].drop_null().to_pylist()) for part in (learned, validation))
    if held - classes:
        rule = f"class {min(held - classes)!r} has images for validation, and none to learn from"
        raise RequestError(f"images {settings.images!r}: {rule}")
    if len(classes) < 2:
        raise RequestError(f"images {settings.images!r}: at least 2 classes are needed, got {', '.join(classes)}")
    return tuple(sorted(classes))


def _network(settings: TrainClassifier, found: Package, task: ImageClassification) -> dict[str, Any]:
    autoencoder = found.model()
    assert isinstance(autoencoder, Autoencoder), found.model_name
    shapes = autoencoder.latent_shapes(task.autoencoder.height_px, task.autoencoder.width_px)
    network = {
        "classes": len(task.classes),
        "latents": sum(shape[0] for shape in shapes),
        "hidden": settings.fit.classifier_hidden,
        "dropout": settings.fit.dropout,
        found.model_name: config.to_dict(autoencoder.config),
    }
    return config.to_dict(config.from_dict(LatentClassifierConfig, network))


if __name__ == "__main__":
    main(TrainClassifier, work)
