"""The task of finding regions without labels: training on images alone, and masks whose classes are regions."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import check
from pipeline.images import calibration, letterbox, novelty
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.inputs import NO_CLASS
from pipeline.images.masks import raw_mask
from pipeline.images.prediction import appearing_scale
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.images.upsampling import class_strips, in_bands
from pipeline.models.autoencoders.likelihoods import bits_per_dimension
from pipeline.models.regions.slot_vae import SlotInference, SlotNoise, SlotVAE, blended_nll, layer_scores, mixture_nll
from pipeline.noise import Noise
from pipeline.training.losses import Batch, Loss, Statistics

_LEVELS = 256  # of 8-bit images, whose density the bound is of
_SHARED = 0.5  # cosine of the probabilities of two layers from which on they are one region
_SMALLEST = 1e-12  # of a probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class ImageRegions(ImageSegmentation):
    """Divides an image into regions that a network has found without labels. They are the classes of the mask.

    Class 0 is the region with the most pixels, which is the background in most images. The others follow from left to
    right, by the mean of their columns; regions without a pixel come last. So class 1 of two images need not be alike.
    """

    beta: float = 0.5
    """Weight of the KL divergence of the latents in the training objective."""
    warmup: float = 0.2
    """Part of the training in which that weight rises from 0."""
    blended: float = 0.2
    """Part of the training, from its start, in which layers are less and less transparent, until each pixel is of one
    layer."""
    reference: novelty.Reference | None = None
    """Statistics of held-out images with which novelty is computed. Training sets them."""

    kind: ClassVar[str] = "image_regions"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("bits_per_dimension", "min")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "beta", self.beta >= 0, "not be negative")
        for name in ("warmup", "blended"):
            check(self, name, 0 <= getattr(self, name) <= 1, "be in [0, 1]")
        check(self, "resize", self.resize == "fit", "be fit: regions are of whole images")
        check(self, "tta", self.tta == "none", "be none")
        check(self, "autoencoder", self.autoencoder is None, "be null: the network has novelty of its own")

    @classmethod
    def of(cls, slots: int, **settings: Any) -> ImageRegions:
        """The task for a network with so many slots."""
        return cls(classes=region_names(slots), palette=region_palette(slots), **settings)

    def prepare(self, inputs: pa.Table) -> pa.Table:
        return self.compressed(letterbox.prepare(self, inputs))

    def compressed(self, prepared: pa.Table) -> pa.Table:
        """Add the column ``compressed_bits``, as `ImageReconstruction.compressed` does."""
        return ImageReconstruction(height_px=self.height_px, width_px=self.width_px).compressed(prepared)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """The columns of `ImageSegmentation.predict`, and those of novelty. Latents are at the means of the posterior.

        The novelty compares the evidence lower bound with held-out images; it is null without a `reference`. The
        embedding is the mean of the slots' latents.
        """
        assert isinstance(model, SlotVAE)
        sizes = prepared.select(["height", "width", "valid_height", "valid_width"]).to_pylist()
        with torch.inference_mode():
            image = letterbox.unit(letterbox.images(prepared, self).to(device))
            inside = letterbox.valid(prepared, self).to(device)
            found = model.infer(image, None)
            scores = layer_scores(image, found.layers, model.config.sigma)
            bits = self._bits(model, image, found, inside).cpu().numpy()
            masks, sureness = [], []
            for size, one in zip(sizes, scores, strict=True):
                sure = calibration.Sureness(1.0)
                logits = ordered(joined(one[:, : size["valid_height"], : size["valid_width"]]))
                wanted = (size["height"], size["width"])
                bands = sure.passing(in_bands(logits, *wanted))
                masks.append(raw_mask(class_strips(bands, (size["valid_height"], size["valid_width"]), wanted)))
                sureness.append(sure)
        return pa.table(
            {
                "mask": pa.array([mask for mask, _ in masks], pa.large_binary()),
                "class_pixels": pa.array([pixels for _, pixels in masks], pa.list_(pa.int64())),
                "height": prepared["height"],
                "width": prepared["width"],
                "confidence": pa.array([sure.confidence for sure in sureness], pa.float32()),
                "uncertainty": pa.array([sure.uncertainty for sure in sureness], pa.float32()),
                "scale": pa.array([appearing_scale(self, **size) for size in sizes], pa.float32()),
                **novelty.scores(self.reference, bits, prepared["compressed_bits"].to_numpy()),
                "embedding": pa.array(list(found.posterior.mean.mean(1).cpu().numpy()), pa.list_(pa.float32())),
                "bits_per_dimension": pa.array(bits, pa.float32()),
            }
        )

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        return letterbox.prepare(self, inputs)

    def truth(self, samples: pa.Table) -> dict[str, int]:
        return {}

    def collate(self, samples: pa.Table) -> Batch:
        """``image`` (b, 3, h, w) uint8, and ``valid`` (b, 1, h, w): 1 inside the image, 0 in padding."""
        return {"image": letterbox.images(samples, self), "valid": letterbox.valid(samples, self)}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        moved = torch.where(batch["valid"][:, 0] > 0, 0, NO_CLASS).to(torch.uint8)
        image, moved = augment_images(letterbox.unit(batch["image"]), moved, self.augmentation, noise)
        assert moved is not None
        return {"image": image, "valid": (moved != NO_CLASS).unsqueeze(1).to(image.dtype)}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The evidence lower bound, negated, in nats; units are the values of pixels inside of images.

        Layers are transparent at first (`blended`), and the weight of the KL rises (`warmup`).
        """
        assert isinstance(model, SlotVAE)
        image, sigma = letterbox.unit(batch["image"]), model.config.sigma
        found = model.infer(image, self._noise(model, noise, image.device))
        done = noise.step / max(1, noise.steps)
        mixed = min(1.0, done / self.blended) if self.blended else 1.0
        cost = mixed * mixture_nll(image, found.layers, sigma) + (1 - mixed) * blended_nll(image, found.layers, sigma)
        reconstruction, divergence = (cost * batch["valid"][:, 0]).sum(), found.kl().sum()
        beta = self.beta * (min(1.0, done / self.warmup) if self.warmup else 1.0)
        logs = {"reconstruction": reconstruction, "kl": divergence}
        return Loss(total=reconstruction + beta * divergence, units=image.shape[1] * batch["valid"].sum(), logs=logs)

    @property
    def remarks(self) -> dict[str, str]:
        return novelty.remarks(self.reference)

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> ImageRegions:
        """With the `reference` and the usual scale of the validation samples."""
        bits, compressed, scales = [], [], []
        for rows in held_out:
            prepared = self.compressed(rows)
            bits.append(self.predict(model, prepared, torch.device("cpu"))["bits_per_dimension"].to_numpy())
            compressed.append(prepared["compressed_bits"].to_numpy())
            sizes = rows.select(["height", "valid_height"]).to_pylist()
            scales += [size["valid_height"] / size["height"] for size in sizes]
        if not scales:
            return self
        reference = novelty.reference(np.concatenate(bits), np.concatenate(compressed))
        return replace(self, reference=reference, usual_scale=float(np.median(scales)))

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """The two parts of the bound in nats, and the pixels in which one layer has most of the mask."""
        assert isinstance(model, SlotVAE)
        image, valid = letterbox.unit(batch["image"]), batch["valid"]
        found = model.infer(image, self._noise(model, noise, image.device))
        nll = (mixture_nll(image, found.layers, model.config.sigma) * valid[:, 0]).double()
        sure = (found.layers.log_mask.amax(1) > np.log(0.5)).double() * valid[:, 0]
        return {
            "reconstruction": nll.sum(),
            "kl": found.kl().double().sum(),
            "sure": sure.sum(),
            "pixels": valid.double().sum(),
            "images": torch.tensor(float(len(image)), dtype=torch.float64, device=image.device),
        }

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """The bound in bits for each dimension, its parts in nats for each image, and the fraction of pixels in which
        one layer has most of the mask."""
        images, values = statistics["images"], 3 * statistics["pixels"]
        found = {
            "bits_per_dimension": bits_per_dimension(statistics["reconstruction"] + statistics["kl"], values, _LEVELS),
            "reconstruction": statistics["reconstruction"] / images,
            "kl": statistics["kl"] / images,
            "one_layer": statistics["sure"] / statistics["pixels"],
        }
        return {name: float(value) for name, value in found.items()}

    def _noise(self, model: SlotVAE, noise: Noise, device: torch.device) -> SlotNoise:
        return SlotNoise(*(noise.normal(*shape, device=device) for shape in model.noise_shapes()))

    def _bits(self, model: SlotVAE, image: Tensor, found: SlotInference, inside: Tensor) -> Tensor:
        nats = (mixture_nll(image, found.layers, model.config.sigma) * inside[:, 0]).flatten(1).sum(1) + found.kl()
        return bits_per_dimension(nats, image.shape[1] * inside.flatten(1).sum(1), _LEVELS).float()


#: No augmentation: images stay as they are.
UNCHANGED = AugmentConfig(flip=False, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, color=0.0)


def joined(scores: Tensor) -> Tensor:
    """Log probabilities (k, h, w) of regions from the scores of layers: layers that share their pixels are one region.

    Where there are more slots than things, several slots paint the same thing, each with a part of its mask. Two layers
    are joined if the cosine of their probabilities, over all pixels, is above a half: for layers that share a thing it
    is near 1, for layers of different things near 0. Layers of the others are left without probability.
    """
    probability = scores.softmax(0)
    flat = probability.flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=_SMALLEST)
    is_same = (flat @ flat.T > _SHARED).tolist()
    owner = list(range(len(scores)))
    for index in owner[:]:
        for other in range(index):
            if is_same[index][other]:
                owner = [owner[other] if item == owner[index] else item for item in owner]
    found = torch.zeros_like(probability).index_add(0, torch.tensor(owner, device=scores.device), probability)
    return found.clamp(min=_SMALLEST).log()


def ordered(scores: Tensor) -> Tensor:
    """The scores (k, h, w) in the order of regions: that with the most pixels, then from left to right."""
    count, _, width = scores.shape
    region = torch.nn.functional.one_hot(scores.argmax(0), count).double()
    pixels = region.sum((0, 1))
    columns = torch.arange(width, dtype=torch.float64, device=scores.device)
    middle = (region.sum(0) * columns[:, None]).sum(0) / pixels.clamp(min=1)
    middle[pixels == 0] = width  # behind all others
    middle[pixels.argmax()] = -1
    return scores[torch.argsort(middle, stable=True)]


def region_names(count: int) -> tuple[str, ...]:
    return tuple(f"region-{index}" for index in range(count))


def region_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """A dark gray, then bright colours whose hues are far apart."""
    hues = [(0.61803 * index) % 1 for index in range(count - 1)]
    colours = [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    return ((72, 72, 80), *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours))
