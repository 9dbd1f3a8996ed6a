"""Train a network that divides images into regions, without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.training import TrainSettings, require_folder, train_package
from pipeline import config
from pipeline.config import check
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.distributed.session import session
from pipeline.images.augment import AugmentConfig
from pipeline.images.regions import UNCHANGED, ImageRegions
from pipeline.models.regions.slot_vae import SlotVAEConfig
from pipeline.source.labelled import held_out, training_inputs


@dataclass(frozen=True, kw_only=True)
class TrainImageRegions(TrainSettings):
    """Train a network that divides images into regions, without labels."""

    images: str
    """Folder of images. If it has train.txt (a labelled folder), only the images listed there are used."""
    height_px: int = 32
    """Height of the model's input in pixels; images are scaled to fit into it and padded."""
    width_px: int = 32
    """Width of the model's input in pixels."""
    beta: float = 0.5
    """Weight of the KL divergence of the latents in the training objective."""
    warmup: float = 0.2
    """Part of the training in which that weight rises from 0."""
    blended: float = 0.2
    """Part of the training, from its start, in which layers are less and less transparent, until each pixel is of one
    layer."""
    augmentation: AugmentConfig = UNCHANGED
    """Random augmentation of training images."""
    model: SlotVAEConfig = field(default_factory=SlotVAEConfig)
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(
            epochs=20, batch_rows=16, weight_decay=0.0, precision="bfloat16"
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "model", self.model.channels == 3, "have 3 channels: images are in colour")


def work(settings: TrainImageRegions) -> dict[str, Any]:
    require_folder(settings.images, "images")
    names = ("height_px", "width_px", "beta", "warmup", "blended", "augmentation")
    task = ImageRegions.of(settings.model.slots, **{name: getattr(settings, name) for name in names})
    train.claim(settings.out)
    inputs, split = training_inputs(settings.images, ImageRegions.inputs)
    learned, validation = held_out(inputs, settings.validation_fraction)
    with session(settings.cluster):
        return train_package(
            settings,
            task=task,
            model_name="slot_vae",
            model_config=config.to_dict(settings.model),
            train_config=settings.train,
            training=Preparation(learned, task, settings.out, part=TRAINING),
            validation=Preparation(validation, task, settings.out, part=VALIDATION),
            data={"images": settings.images, "split": split},
        )


if __name__ == "__main__":
    main(TrainImageRegions, work)
