"""Train a variational autoencoder on images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.wiring import TrainSettings, fit, require_folder
from pipeline import storage
from pipeline.distributed import samples, train
from pipeline.distributed.session import session
from pipeline.images.task import ImageReconstruction
from pipeline.models.autoencoder import ConvVAEConfig


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainSettings):
    """Train a variational autoencoder on images."""

    images: str
    """Folder of images; where it has train.txt (a labelled folder), only the images of that split are used."""
    task: ImageReconstruction = field(default_factory=ImageReconstruction)
    model: ConvVAEConfig = field(default_factory=ConvVAEConfig)
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(epochs=30, batch_rows=8)
    )


def work(settings: TrainAutoencoder) -> dict[str, Any]:
    require_folder(settings.images, "images")
    train.claim(settings.out)
    labelled = storage.exists(storage.join(settings.images, "train.txt"))
    if labelled:
        inputs = samples.split_files(settings.images, "train")
    else:
        inputs = samples.all_inputs(settings.images, ImageReconstruction.suffixes)
    learned, held_out = samples.held_out(inputs, settings.validation_fraction)

    def prepared() -> tuple[samples.Prepared, samples.Prepared]:
        return (
            samples.prepare(learned, settings.task, settings.out),
            samples.prepare(held_out, settings.task, settings.out),
        )

    with session(settings.cluster):
        return fit(
            out=settings.out,
            task=settings.task,
            model_name="conv_vae",
            model_config=settings.model,
            train_config=settings.train,
            samples=prepared,
            data={"images": settings.images, "split": "train" if labelled else "all"},
        )


if __name__ == "__main__":
    main(TrainAutoencoder, work)
