"""The task of an autoencoder of images: its training, and the novelty of each image (how unlike the training data)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import check, from_dict
from pipeline.errors import RequestError
from pipeline.images import letterbox, novelty
from pipeline.images.augment import AugmentConfig, augment_images, luma
from pipeline.images.inputs import NO_CLASS
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.likelihoods import LEVELS, Likelihood, bits_per_dimension
from pipeline.models.objectives.objective import Bound, Objective, ObjectiveConfig, elbo
from pipeline.noise import Noise, ReservedStep
from pipeline.rows import InputKind
from pipeline.task import Task
from pipeline.training.companion import Companion
from pipeline.training.losses import Batch, Loss, Statistics


@dataclass(frozen=True, kw_only=True)
class ImageReconstruction(Task):
    """Reconstructs images with an autoencoder, and measures in bits how well the autoencoder explains them."""

    height_px: int = 180
    """Height of the model's input in pixels; images are scaled to fit into it and padded."""
    width_px: int = 240
    """Width of the model's input in pixels."""
    max_pixels: int = 100_000_000
    """Largest number of pixels of an image. Larger images become error rows, before they are decoded."""
    channels: Literal[1, 3] = 3
    """Channels that the model gets: 1 is gray (the luma of ITU-R BT.601), 3 is red, green, blue."""
    binarise: bool = False
    """Replace each value by 0 or 1, drawn with the value as the probability of 1. Draws differ from use to use in
    training, and are always the same in validation and prediction. For models with a bernoulli likelihood."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The cost function that training minimises; the default is the negative evidence lower bound."""
    augmentation: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(scale=(1.0, 1.0), brightness=0.0, contrast=0.0, color=0.0)
    )
    """Random augmentation of training images."""
    reference: novelty.Reference | None = None
    """Statistics of held-out images with which novelty is computed. Training sets them."""

    kind: ClassVar[str] = "autoencoder"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("bits_per_dimension", "min")
    inputs: ClassVar[InputKind] = letterbox.IMAGES
    result: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        letterbox.check_box(self)
        check(self, "channels", self.channels in (1, 3), "be 1 or 3")

    def check_model(self, config: Any) -> None:
        """`RequestError` if a model with this configuration cannot be trained for this task."""
        self.objective.check_model(config)
        if config.channels != self.channels:
            rule = f"{type(config).__name__}.channels must be the {self.channels} of ImageReconstruction.channels"
            raise RequestError(f"{rule}, got {config.channels}")
        if self.binarise and config.likelihood != "bernoulli":
            rule = f"{type(config).__name__}.likelihood must be 'bernoulli' if ImageReconstruction.binarise"
            raise RequestError(f"{rule}, got {config.likelihood!r}")

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*letterbox.SIZES, *novelty.COLUMNS])

    def prepare(self, inputs: pa.Table) -> pa.Table:
        return self.compressed(letterbox.prepare(self, inputs))

    def compressed(self, prepared: pa.Table) -> pa.Table:
        """Add the column ``compressed_bits``: size of the image under a lossless compressor, bits for each value."""
        bits: list[float | None] = []
        for row in prepared.select(["image", "valid_height", "valid_width"]).to_pylist():
            if row["image"] is None:
                bits.append(None)
                continue
            pixels = np.frombuffer(row["image"], np.uint8).reshape(self.height_px, self.width_px, 3)
            image = self._predicted(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
            inside = image[:, : row["valid_height"], : row["valid_width"]].permute(1, 2, 0)
            values = (inside * 255).round().to(torch.uint8).numpy()
            bits.append(novelty.compressed_bits(values[..., 0] if self.channels == 1 else values))
        return prepared.append_column("compressed_bits", pa.array(bits, pa.float32()))

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Columns of `schema`, and ``bits_per_dimension``: the negative evidence lower bound.

        The same image always gets the same values: the latents are the means of the posterior, and if `binarise`, the
        same random numbers are used for all images. Novelty is null if there is no `reference`. ``embedding`` is the
        mean of the latents, averaged over positions.
        """
        with torch.inference_mode():
            image = self._predicted(letterbox.images(prepared, self).to(device))
            inside = letterbox.valid(prepared, self).to(device)
            assert isinstance(model, Autoencoder)
            inference = model.infer(image, None)
            nats = elbo(model, image, inference, inside).total()
            bits = bits_per_dimension(nats, self.channels * inside.flatten(1).sum(1), LEVELS[model.config.likelihood])
            means = torch.cat([level.mean.flatten(2).mean(2) for level in inference.levels], dim=1)
        bits = bits.float().cpu().numpy()
        return pa.table(
            {
                **{name: prepared[name] for name, _ in letterbox.SIZES},
                **novelty.scores(self.reference, bits, prepared["compressed_bits"].to_numpy()),
                "embedding": pa.array(list(means.float().cpu().numpy()), pa.list_(pa.float32())),
                "bits_per_dimension": pa.array(bits, pa.float32()),
            }
        )

    @property
    def remarks(self) -> dict[str, str]:
        return novelty.remarks(self.reference)

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> ImageReconstruction:
        """A copy of this task whose `reference` is computed from ``held_out``: tables of prepared images."""
        bits, compressed = [], []
        for rows in held_out:
            prepared = self.compressed(rows)
            bits.append(self.predict(model, prepared, torch.device("cpu"))["bits_per_dimension"].to_numpy())
            compressed.append(prepared["compressed_bits"].to_numpy())
        return dataclasses.replace(self, reference=novelty.reference(np.concatenate(bits), np.concatenate(compressed)))

    def encode(self, predicted: pa.Table) -> pa.Table:
        return predicted.select(self.schema.names).cast(self.schema)

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        return letterbox.prepare(self, inputs)

    def collate(self, samples: pa.Table) -> Batch:
        """``image`` (b, 3, h, w) uint8, and ``valid`` (b, 1, h, w): 1 inside the image, 0 in padding.

        Images are converted to gray only when the model gets them, after `augment`, so that gray models are trained
        with the same augmentation.
        """
        return {"image": letterbox.images(samples, self), "valid": letterbox.valid(samples, self)}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        # The mask of valid pixels is moved with the image as if it were a label.
        moved = torch.where(batch["valid"][:, 0] > 0, 0, NO_CLASS).to(torch.uint8)
        image, moved = augment_images(letterbox.unit(batch["image"]), moved, self.augmentation, noise)
        assert moved is not None
        return {"image": image, "valid": (moved != NO_CLASS).unsqueeze(1).to(image.dtype)}

    def companion(self, model: nn.Module) -> Companion | None:
        objective = self._objective(model)
        return None if objective.is_a_sum else _Training(self, objective)

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The objective in nats, summed over pixels and latents; units are images.

        If the objective is more than a sum over images, there is a `companion`, whose loss is used instead.
        """
        objective = self._objective(model)
        assert objective.is_a_sum, "the companion has the loss"
        return self.objective_loss(objective, model, batch, noise)

    def objective_loss(self, objective: Objective, model: Any, batch: Batch, noise: Noise) -> Loss:
        """`loss` with the given objective, which may have been unpickled in a worker."""
        image = self.given(batch["image"], noise)

        def draw(*shape: int) -> Tensor:
            return noise.normal(*shape, device=image.device)

        costs = objective(model, image, draw, noise.step, batch["valid"])
        units = torch.tensor(float(len(image)), device=image.device)
        logs, sums = ({name: value.sum(0) for name, value in found.items()} for found in (costs.logs, costs.sums))
        return Loss(total=costs.total.sum(), units=units, logs=logs, sums=sums)

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        image, valid = self.given(batch["image"], noise), batch["valid"]
        bound = self._bound(model, image, valid, noise)
        values = self.channels * valid.double().sum()
        sums = {"reconstruction": bound.reconstruction, "kl": bound.kl}
        count = torch.tensor(float(len(image)), dtype=torch.float64, device=image.device)
        found = {name: value.double().sum() for name, value in sums.items()}
        level_bits = values * math.log2(LEVELS[_likelihood(model)])
        return found | {"images": count, "values": values, "level_bits": level_bits}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """Reconstruction cost and KL in nats for each image, and their sum in bits for each dimension."""
        images, values = statistics["images"], statistics["values"]
        nats = statistics["reconstruction"] + statistics["kl"]
        found = {
            "bits_per_dimension": nats / (values * math.log(2)) + statistics["level_bits"] / values,
            "nll_bound": nats / images,
            "reconstruction": statistics["reconstruction"] / images,
            "kl": statistics["kl"] / images,
        }
        return {name: float(value) for name, value in found.items()}

    def seen(self, image: Tensor) -> Tensor:
        """Convert (b, 3, h, w) images to the model's channels, (b, channels, h, w) in [0, 1]."""
        image = letterbox.unit(image)
        return luma(image) if self.channels == 1 else image

    def given(self, image: Tensor, noise: Noise) -> Tensor:
        """The model's input for (b, 3, h, w) images: those of `seen`, and drawn as 0 or 1 if `binarise`."""
        return _drawn(self.seen(image), noise) if self.binarise else self.seen(image)

    def _predicted(self, image: Tensor) -> Tensor:
        """The model's input in prediction: `given` with random numbers that are always the same."""
        return self.given(image, Noise(0, ReservedStep.PREDICTION, [0]))

    def _objective(self, model: Any) -> Objective:
        self.check_model(model.config)
        return Objective(self.objective, model, self.height_px, self.width_px)

    def _bound(self, model: Any, image: Tensor, valid: Tensor, noise: Noise) -> Bound:
        shapes = model.latent_shapes(image.shape[2], image.shape[3])
        drawn = [noise.normal(*shape, device=image.device) for shape in shapes]
        return elbo(model, image, model.infer(image, drawn), valid)


class _Training(Companion):
    """An objective that is more than a sum over images: it couples images, or has a discriminator."""

    def __init__(self, task: ImageReconstruction, objective: Objective) -> None:
        super().__init__()
        self.task, self.objective = task, objective

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        return self.task.objective_loss(self.objective, model, batch, noise)

    def couple(
        self, shares: dict[str, Tensor], means: dict[str, Tensor], units: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        return self.objective.couple(shares, means, units)

    def absorb(self, means: dict[str, Tensor]) -> None:
        self.objective.absorb(means)


def _drawn(image: Tensor, noise: Noise) -> Tensor:
    """Draw ones and zeros with the values of images in [0, 1] as probabilities. All images use the same noise."""
    return (noise.uniform(*image.shape[1:], device=image.device) < image).to(image.dtype)


def _likelihood(model: Any) -> Likelihood:
    return model.config.likelihood


def carried_task(settings: Mapping[str, Any], uri: str) -> ImageReconstruction:
    """The task of an autoencoder package that a segmenter is to carry, from the package's settings. It says how the
    autoencoder sees an image. `RequestError` if the package cannot give novelty."""
    task = from_dict(ImageReconstruction, settings)
    if task.reference is None:
        raise RequestError(f"novelty {uri!r}: the package has no reference to tell percentiles by; train it anew")
    return task
