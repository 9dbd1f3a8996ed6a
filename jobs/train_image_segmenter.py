"""Train an image segmenter on a labelled folder, from scratch or starting from an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.training import TrainSettings, require_folder, train_package
from pipeline import config, models, package, storage
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.distributed.session import session
from pipeline.errors import RequestError
from pipeline.images.augment import AugmentConfig
from pipeline.images.labels import read_classes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.interface import Segmenter, init_from_autoencoder
from pipeline.models.segmenters.with_autoencoder import carry_autoencoder
from pipeline.package import Package
from pipeline.source.labelled import held_out, split_files


@dataclass(frozen=True, kw_only=True)
class TrainImageSegmenter(TrainSettings):
    """Train an image segmenter on a labelled folder, from scratch or starting from an autoencoder."""

    images: str
    """Labelled folder with images/, labels/, classes.json, train.txt and optionally val.txt."""
    init: str | None = None
    """URI of an autoencoder package whose encoder's weights the segmenter starts from; null: random weights."""
    novelty: str | None = None
    """URI of an autoencoder package that is stored with the segmenter and gives each row its novelty; null: none."""
    architecture: str = "unet"
    """Name of the network's architecture."""
    validation_split: str = "val"
    """Split by which the best weights are chosen; if it has no file, validation_fraction of the training split is used.
    """
    height_px: int = 180
    """Height of the model's input in pixels; images are scaled to fit into it and padded."""
    width_px: int = 240
    """Width of the model's input in pixels."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class's pixels in the loss; null: all pixels have the same weight."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    widths: tuple[int, ...] | None = None
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on. null: those of the autoencoder if one
    is given, or else the default of the network."""
    blocks: tuple[int, ...] | None = None
    """Number of residual blocks of the encoder at each resolution; null: as for widths."""
    model: dict[str, Any] = field(default_factory=dict)
    """Additional settings of the network, by name."""
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(epochs=60, batch_rows=8)
    )


def work(settings: TrainImageSegmenter) -> dict[str, Any]:
    require_folder(settings.images, "images")
    train.claim(settings.out)
    encoder, carried = _autoencoder(settings.init), _autoencoder(settings.novelty)
    task = ImageSegmentation(
        **read_classes(settings.images),
        height_px=settings.height_px,
        width_px=settings.width_px,
        class_weights=settings.class_weights,
        augmentation=settings.augmentation,
        autoencoder=None if carried is None else _seen(carried),
    )
    starts = ((encoder, init_from_autoencoder), (carried, carry_autoencoder))
    copies = tuple(train.CopyWeights.of(found, copy) for found, copy in starts if found is not None)
    model = _model(settings, len(task.classes), encoder, carried)
    learned = split_files(settings.images, "train")
    if storage.exists(storage.join(settings.images, f"{settings.validation_split}.txt")):
        validation = split_files(settings.images, settings.validation_split)
    else:
        learned, validation = held_out(learned, settings.validation_fraction)

    with session(settings.cluster):
        return train_package(
            settings,
            task=task,
            model_name=settings.architecture,
            model_config=model,
            train_config=settings.train,
            training=Preparation(learned, task, settings.out, part=TRAINING),
            validation=Preparation(validation, task, settings.out, part=VALIDATION),
            data={"images": settings.images, "init": settings.init, "novelty": settings.novelty},
            copies=copies,
        )


def _autoencoder(uri: str | None) -> Package | None:
    return None if uri is None else package.load(uri, ImageReconstruction.kind)


def _model(
    settings: TrainImageSegmenter, classes: int, encoder: Package | None, carried: Package | None
) -> dict[str, Any]:
    """The settings of the network, after checking them."""
    known = models.names_of(Segmenter)
    if settings.architecture not in known:
        raise RequestError(f"architecture must be one of {', '.join(known)}, got {settings.architecture!r}")
    config_class = models.MODELS[settings.architecture][0]
    chosen: dict[str, Any] = {"widths": settings.widths, "blocks": settings.blocks}
    if encoder is not None:
        for name, value in chosen.items():
            theirs = tuple(encoder.model_config[name])
            if value not in (None, theirs):
                rule = f"{config_class.__name__}.{name} must be the autoencoder's {theirs}"
                raise RequestError(f"{rule}, got {value}")
            chosen[name] = theirs
    given = {name: value for name, value in chosen.items() if value is not None}
    network = config.from_dict(config_class, {"classes": classes, **given, **settings.model})
    return config.to_dict(network) | {"autoencoder": None if carried is None else carried.model_config}


def _seen(carried: Package) -> ImageReconstruction:
    """The task of the autoencoder package, whose settings say how the autoencoder sees an image."""
    task = config.from_dict(ImageReconstruction, carried.task)
    if task.reference is None:
        raise RequestError(
            f"novelty {carried.uri!r}: the package has no reference to tell percentiles by; train it anew"
        )
    return task


if __name__ == "__main__":
    main(TrainImageSegmenter, work)
