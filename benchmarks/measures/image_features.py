"""Features of images by a small classifier of our own, trained here: no downloaded weights, no photographs' taste.

It is frozen once it is trained: its weights are one safetensors file, and the SHA-256 of that file names the features.
Distances between sets of features mean something for one and the same digest only.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.measures.evaluating import Rows, evaluating, random_batches, slices, unit_images
from pipeline import config
from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.training.optimiser import minimise

_GROUP_CHANNELS = 8
_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    channels: int = 1
    """Channels of the image."""
    classes: int = 10
    """Classes that it tells apart."""
    widths: tuple[int, ...] = (24, 48, 96)
    """Channels at half the image's size, a quarter, and so on."""
    features: int = 64
    """Numbers for each image."""

    def __post_init__(self) -> None:
        check(self, "channels", self.channels >= 1, "be at least 1")
        check(self, "classes", self.classes >= 2, "be at least 2")
        ok = len(self.widths) >= 1 and all(width > 0 and width % _GROUP_CHANNELS == 0 for width in self.widths)
        check(self, "widths", ok, f"be positive multiples of {_GROUP_CHANNELS}")
        check(self, "features", self.features >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    epochs: int = 5
    """Passes over the images."""
    batch_rows: int = 250
    """Images in a step."""
    learning_rate: float = 4e-3
    """The largest of the one-cycle schedule (Smith and Topin 2019)."""
    weight_decay: float = 0.02
    """Of AdamW."""
    rotation_degrees: float = 10.0
    """Images are turned by up to this much, either way."""
    scale: float = 0.1
    """Images grow or shrink by up to this part of their size."""
    shift: float = 0.07
    """Images move by up to this part of their size, on either axis."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the network's products in training. Features are always float32."""
    seed: int = 0
    """Of first weights, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "learning_rate", self.learning_rate > 0, "be positive")
        for name in ("weight_decay", "rotation_degrees", "shift"):
            check(self, name, getattr(self, name) >= 0, "not be negative")
        check(self, "scale", 0 <= self.scale < 1, "be in [0, 1)")


class Classifier(nn.Module):
    """Convolutions with group normalisation and GELU; what the last layer sees, before its GELU, are the features."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        layers, inputs = [], config.channels
        for index, width in enumerate(config.widths):
            layers += [*_convolution(inputs, width, 3 if index else 5, stride=2)]
            layers += [*_convolution(width, width, 3, stride=1)]
            inputs = width
        # Four quarters of the image, whatever its size: where a stroke is tells digits apart.
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.features = nn.Linear(4 * inputs, config.features)
        self.head = nn.Linear(config.features, config.classes)
        # Of the weights too, before training and after loading, so that both round alike.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b k"]]:
        """Features and class logits of images in [0, 1], float32."""
        if image.shape[1] != self.config.channels:
            rule = f"ClassifierConfig.channels is {self.config.channels}"
            raise RequestError(f"{rule}, but images have {image.shape[1]}")
        x = ((image - 0.5) * 4.0).contiguous(memory_format=torch.channels_last)
        found = self.features(self.trunk(x)).float()
        return found, self.head(F.gelu(found)).float()


class _Norm(nn.GroupNorm):
    """In float32 also under autocast, which on CPUs is several times as fast as in bfloat16, and more exact."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class Described(NamedTuple):
    """What the classifier says of images, in their order."""

    features: Float[np.ndarray, "n f"]
    """float64, ready for moments and distances."""
    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    """The probability of that label."""


def describe(classifier: Classifier, images: Rows) -> Described:
    """Features, predicted classes and confidences of (n, c, h, w) images in [0, 1]."""
    images, features, labels, confidence = unit_images(images), [], [], []
    with evaluating(classifier) as device:
        for part in slices(len(images), _ROWS):
            found, logits = classifier(images[part].to(device))
            sure = logits.softmax(1).max(1)
            features.append(found.double().cpu())
            labels.append(sure.indices.cpu())
            confidence.append(sure.values.double().cpu())
    return Described(*(torch.cat(parts).numpy() for parts in (features, labels, confidence)))


def train_classifier(
    images: Rows,
    labels: Rows,
    network: ClassifierConfig | None = None,
    training: ClassifierTraining | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """A classifier of (n, c, h, w) images in [0, 1] with labels (n,), frozen and in eval mode, on the CPU.

    The same seed, data, machine and number of threads give the same weights. ``network`` None: the defaults, for these
    channels and as many classes as there are labels.
    """
    training, images = training or ClassifierTraining(), unit_images(images)
    classes = _classes(labels, len(images))
    network = network or ClassifierConfig(channels=images.shape[1], classes=max(2, int(classes.max()) + 1))
    if not 0 <= int(classes.min()) <= int(classes.max()) < network.classes:
        raise RequestError(f"labels must be 0 to {network.classes - 1}, the last of ClassifierConfig.classes")
    random = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        classifier = Classifier(network).to(device).train()
    rows = min(training.batch_rows, len(images))
    steps = training.epochs * (len(images) // rows)
    optimizer = torch.optim.AdamW(classifier.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    rate = OneCycleLR(optimizer, training.learning_rate, total_steps=steps + 1)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training.precision == "bfloat16")
    batches = random_batches(len(images), rows, random)

    def cost(_: int) -> Tensor:
        part = next(batches)
        batch = _augmented(images[part], training, random).to(device)
        with autocast:
            _, logits = classifier(batch)
        return F.cross_entropy(logits, classes[part].to(device))

    minimise(cost, optimizer, rate, steps)
    return classifier.cpu().eval().requires_grad_(False)


def accuracy(classifier: Classifier, images: Rows, labels: Rows) -> float:
    """Part of the images whose class is told."""
    found = describe(classifier, images).labels
    return float((found == _classes(labels, len(found)).numpy()).mean())


def dump(classifier: Classifier) -> bytes:
    """The classifier as one safetensors file, its configuration in the file's metadata; the same bytes every time."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    settings = json.dumps(config.to_dict(classifier.config), sort_keys=True)
    return safetensors.torch.save(tensors, {"classifier": settings})


def digest(data: bytes) -> str:
    """The SHA-256 of a classifier's file, which names its features; hex."""
    return hashlib.sha256(data).hexdigest()


def load(data: bytes, expected: str | None = None) -> Classifier:
    """The inverse of `dump`, frozen. `RequestError` if the bytes are no such file, or not the ``expected`` digest's."""
    if expected is not None and digest(data) != expected:
        raise RequestError(f"the classifier's digest must be {expected}, got {digest(data)}")
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        settings = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["classifier"])
    except (safetensors.SafetensorError, KeyError, ValueError) as reason:
        raise RequestError("the classifier's file is broken, or is no classifier's") from reason
    classifier = Classifier(config.from_dict(ClassifierConfig, settings))
    own = classifier.state_dict()
    wrong = [name for name in {**own, **tensors} if _shape(own, name) != _shape(tensors, name)]
    if wrong:
        raise RequestError(f"the classifier's weights do not fit its settings, see {wrong[0]!r}")
    classifier.load_state_dict(tensors)
    return classifier.eval().requires_grad_(False)


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _convolution(inputs: int, outputs: int, size: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [convolution, _Norm(outputs // _GROUP_CHANNELS, outputs), nn.GELU()]


def _classes(labels: Rows, count: int) -> Int[Tensor, " n"]:
    found = torch.as_tensor(labels)
    if found.ndim != 1 or len(found) != count or found.is_floating_point():
        raise RequestError(f"labels must be {count} whole numbers, got {found.dtype} {tuple(found.shape)}")
    return found.long()


def _augmented(
    image: Float[Tensor, "b c h w"], training: ClassifierTraining, random: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Images turned, scaled and moved a little, each by its own amount; what comes in from outside is black."""
    turn, size, down, across = (torch.rand(4, len(image), generator=random) * 2 - 1).unbind()
    angle, factor = turn * math.radians(training.rotation_degrees), 1 + size * training.scale
    cosine, sine = torch.cos(angle) / factor, torch.sin(angle) / factor
    # Coordinates run from -1 to 1 on both axes, so that a turn of an oblong image needs its proportions.
    proportion = image.shape[2] / image.shape[3]
    shift = 2 * training.shift
    first = torch.stack((cosine, -sine * proportion, across * shift), 1)
    second = torch.stack((sine / proportion, cosine, down * shift), 1)
    grid = F.affine_grid(torch.stack((first, second), 1), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
