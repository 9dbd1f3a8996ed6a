"""Train an autoencoder on images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.cli import main
from jobs.training import TrainSettings, require_folder, train_package
from pipeline import config
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.distributed.session import session
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAEConfig
from pipeline.source.labelled import held_out, training_inputs


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainSettings):
    """Train an autoencoder on images."""

    images: str
    """Folder of images. If it has train.txt (a labelled folder), only the images listed there are used."""
    task: ImageReconstruction = field(default_factory=ImageReconstruction)
    architecture: Literal["conv_vae", "ladder_vae"] = "conv_vae"
    """conv_vae has one level of latents, and the settings model; ladder_vae has several, and the settings ladder."""
    model: ConvVAEConfig = field(default_factory=ConvVAEConfig)
    ladder: LadderVAEConfig = field(default_factory=LadderVAEConfig)
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(epochs=30, batch_rows=8)
    )


def work(settings: TrainAutoencoder) -> dict[str, Any]:
    require_folder(settings.images, "images")
    model = settings.model if settings.architecture == "conv_vae" else settings.ladder
    settings.task.check_model(model)
    train.claim(settings.out)
    inputs, split = training_inputs(settings.images, ImageReconstruction.inputs)
    learned, validation = held_out(inputs, settings.validation_fraction)

    with session(settings.cluster):
        return train_package(
            settings,
            task=settings.task,
            model_name=settings.architecture,
            model_config=config.to_dict(model),
            train_config=settings.train,
            training=Preparation(learned, settings.task, settings.out, part=TRAINING),
            validation=Preparation(validation, settings.task, settings.out, part=VALIDATION),
            data={"images": settings.images, "split": split},
        )


if __name__ == "__main__":
    main(TrainAutoencoder, work)
