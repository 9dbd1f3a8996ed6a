"""The task of a classifier of images: its class, on the latents of an autoencoder that has seen no labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import InputError, RequestError
from pipeline.images import letterbox, novelty
from pipeline.images.calibration import TemperatureFit
from pipeline.images.classifier_fitting import ClassifierFitConfig, fit_classifier
from pipeline.images.movement import AFFINE, BEND, moved
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.classifiers.latent_classifier import LatentClassifier
from pipeline.noise import Noise, ReservedStep
from pipeline.rows import InputKind, error_value
from pipeline.task import Task
from pipeline.training.losses import Batch, Loss, Statistics
from pipeline.training.samples import Samples

#: The class of a sample without a label.
NO_LABEL = -1

_ROUNDING = 1e-4  # of float32 probabilities
_BINS = 15  # of the confidence, for the calibration error
_ENCODED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Task):
    """Assigns a class to an image, from several views of it in the latents of an autoencoder."""

    classes: tuple[str, ...]
    """Names of the classes. The scores of a row have their order."""
    autoencoder: ImageReconstruction
    """Settings for the autoencoder that the model carries: how it sees an image, and the reference of novelty."""
    max_pixels: int = 100_000_000
    """Largest number of pixels of an image. Larger images become error rows, before they are decoded."""
    views: int = 8
    """Views of an image whose answers are averaged: the image itself, and the image moved a little."""
    movement: float = 0.5
    """How far views are moved; at 1 the deviations are 7 degrees, 12 % of the size, a twentieth of the image."""
    fit: ClassifierFitConfig = field(default_factory=ClassifierFitConfig)
    """How the classifier is fitted to the latents."""
    temperature: float = 1.0
    """Number by which logits are divided before they are probabilities. Training sets it on validation images."""

    kind: ClassVar[str] = "image_classifier"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")
    inputs: ClassVar[InputKind] = letterbox.IMAGES
    result: ClassVar[str] = "label"
    truth_unit: ClassVar[str] = "image with a class"

    def __post_init__(self) -> None:
        check(self, "classes", len(self.classes) >= 2, "be at least 2 names")
        check(self, "classes", len(set(self.classes)) == len(self.classes), "have no name twice")
        for name in ("max_pixels", "views"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "movement", self.movement >= 0, "not be negative")
        check(self, "temperature", self.temperature > 0, "be positive")

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                *letterbox.SIZES,
                ("label", pa.string()),
                ("scores", pa.list_(pa.float32())),
                ("confidence", pa.float32()),
                ("uncertainty", pa.float32()),
                *novelty.COLUMNS,
            ]
        )

    @property
    def description(self) -> dict[str, Any]:
        """The names of the classes, and how the columns are read."""
        return {
            "result": "label",
            "classes": list(self.classes),
            "how_to_read": "label is the likeliest class. scores are the probabilities of all classes, in the order of "
            "classes; confidence is the largest of them, and uncertainty their entropy in nats.",
        }

    def prepare(self, inputs: pa.Table) -> pa.Table:
        return self.autoencoder.compressed(letterbox.prepare(self._box, inputs))

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """The columns of `schema`. The views of all images are moved in the same ways, which never change."""
        assert isinstance(model, LatentClassifier)
        with torch.inference_mode():
            logits = self.class_logits(model, letterbox.images(prepared, self._box).to(device))
            log_scores = (logits / self.temperature).log_softmax(1)
            scores = log_scores.exp()
            entropy = -(scores * log_scores).sum(1)
        found = self.autoencoder.predict(model.autoencoder, prepared, device)
        top = scores.max(1)
        columns = {
            **{name: prepared[name] for name, _ in letterbox.SIZES},
            "label": pa.array([self.classes[index] for index in top.indices.tolist()], pa.string()),
            "scores": pa.array(list(scores.cpu().numpy()), pa.list_(pa.float32())),
            "confidence": pa.array(top.values.cpu().numpy(), pa.float32()),
            "uncertainty": pa.array(entropy.cpu().numpy(), pa.float32()),
        }
        return pa.table(columns | {name: found[name] for name, _ in novelty.COLUMNS})

    def encode(self, predicted: pa.Table) -> pa.Table:
        return predicted.select(self.schema.names).cast(self.schema)

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """The columns of `letterbox.prepare`, and ``label``: the number of the class, `NO_LABEL` without one.

        The label of an input is the name of its class. ``bad_label`` if it is none of `classes`.
        """
        prepared = letterbox.prepare(self._box, inputs)
        numbers = {name: number for number, name in enumerate(self.classes)}
        labels, errors = [], prepared["error"].to_pylist()
        for place, label in enumerate(inputs["label"].to_pylist()):
            name = None if label is None else label.decode()
            labels.append(NO_LABEL if name is None else numbers.get(name))
            if labels[-1] is None and errors[place] is None:
                errors[place] = error_value("prepare", InputError("bad_label", f"no class is named {name!r}"))
        index = prepared.column_names.index("error")
        prepared = prepared.set_column(index, "error", pa.array(errors, prepared["error"].type))
        return prepared.append_column("label", pa.array(labels, pa.int32()))

    def truth(self, samples: pa.Table) -> dict[str, int]:
        """Images of each class."""
        labels = samples["label"].to_numpy()
        counts = np.bincount(labels[labels != NO_LABEL], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def collate(self, samples: pa.Table) -> Batch:
        """``image`` (b, 3, h, w) uint8, and ``label`` (b,) int64."""
        label = torch.from_numpy(samples["label"].to_numpy().astype(np.int64))
        return {"image": letterbox.images(samples, self._box), "label": label}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """Images moved as views are."""
        return batch | {"image": _moved(letterbox.unit(batch["image"]), self.movement, noise)}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The cross entropy of the labelled images, on latents drawn from their posteriors; units are these images.

        It is the classifier's part of what `fitted` minimises, which also learns from images without a label.
        """
        assert isinstance(model, LatentClassifier)
        posterior = model.latents(self.autoencoder.given(batch["image"], noise))
        latents = posterior.sample(noise.normal(posterior.mean.shape[1], device=posterior.mean.device))
        logits, known = model(latents.unsqueeze(1)), batch["label"] != NO_LABEL
        total = F.cross_entropy(logits[known], batch["label"][known], reduction="sum")
        return Loss(total=total, units=known.sum().to(total.dtype))

    def fitted(self, model: LatentClassifier, samples: Samples, seed: int, say: Callable[[str], None]) -> None:
        """Fit the classifier of a model to samples, with labels and without, on the CPU.

        The latents of all views are in memory: 8 bytes for each latent, view and image. `RequestError` if a class has
        no sample.
        """
        posteriors, labels = self._encoded(model, samples, seed, say)
        labelled = (labels != NO_LABEL).nonzero().squeeze(1)
        say(f"fitting the classifier to {len(labelled)} labelled images and {len(labels) - len(labelled)} others")
        steps = self.fit.steps

        def report(step: int, cost: float) -> None:
            if (step + 1) % 500 == 0:
                say(f"step {step + 1} of {steps}, cost {cost:.3f} nats")

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the layers are small: several threads would only wait for each other
        try:
            found = fit_classifier(
                posteriors, labelled, labels[labelled], len(self.classes), self.fit, seed=seed, report=report
            )
        finally:
            torch.set_num_threads(threads)
        model.classifier.load_state_dict(found.classifier.state_dict())
        model.eval()

    def class_logits(self, model: LatentClassifier, image: Tensor) -> Tensor:
        """Logits (b, k) of images (b, 3, h, w): the mean over their views."""
        image = letterbox.unit(image)
        means = [model.latents(self._seen(image)).mean]
        if self.views > 1:
            noise = Noise(0, ReservedStep.VIEWS, range(1, self.views))
            affine, bend = noise.normal(*AFFINE, device=image.device), noise.normal(*BEND, device=image.device)
            for view in range(self.views - 1):
                turn, bent = (part[view].expand(len(image), *part[view].shape) for part in (affine, bend))
                seen = self._seen(moved(image, self.movement, turn, bent).clamp(0, 1))
                means.append(model.latents(seen).mean)
        return model(torch.stack(means, dim=1))

    @property
    def remarks(self) -> dict[str, str]:
        return self.autoencoder.remarks

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> ImageClassification:
        """With the temperature of the validation samples that have a class."""
        assert isinstance(model, LatentClassifier)
        fit = TemperatureFit()
        for rows in held_out:
            batch = self.collate(rows)
            known = batch["label"] != NO_LABEL
            with torch.inference_mode():
                logits = self.class_logits(model, batch["image"][known])
            fit.add(logits[:, :, None, None], batch["label"][known][:, None, None])
        return replace(self, temperature=fit.temperature())

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """The confusion matrix, the negative log likelihood, and the `calibration_bins`."""
        assert isinstance(model, LatentClassifier)
        known = batch["label"] != NO_LABEL
        label, image = batch["label"][known], batch["image"][known]
        log_scores = (self.class_logits(model, image).double() / self.temperature).log_softmax(1)
        return {
            "confusion": class_confusion(label, log_scores.argmax(1), len(self.classes)),
            "nll": F.nll_loss(log_scores, label, reduction="sum"),
            "bins": calibration_bins(log_scores.exp(), label),
        }

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """Accuracy, also that of each class; expected calibration error over 15 bins; negative log likelihood, nats."""
        confusion = statistics["confusion"]
        count = float(confusion.sum())
        hits, true = confusion.diagonal(), confusion.sum(1)
        named = {
            f"accuracy/{name}": float(hits[index] / true[index])
            for index, name in enumerate(self.classes)
            if true[index]
        }
        found = {
            "accuracy": float(hits.sum() / count) if count else math.nan,
            "calibration_error": calibration_error(statistics["bins"]),
            "nll": float(statistics["nll"] / count) if count else math.nan,
        }
        return found | named

    @property
    def _box(self) -> ImageReconstruction:
        return replace(self.autoencoder, max_pixels=self.max_pixels)

    def _seen(self, image: Tensor) -> Tensor:
        return self.autoencoder.given(image, Noise(0, ReservedStep.PREDICTION, [0]))

    def _encoded(
        self, model: LatentClassifier, samples: Samples, seed: int, say: Callable[[str], None]
    ) -> tuple[Gaussian, Tensor]:
        """The posteriors (n, v, d) of all views of all samples, and their labels (n,)."""
        count = len(samples)
        say(f"encoding {self.views} views of {count} images")
        means = torch.empty(count, self.views, model.config.latents)
        log_variances, labels = torch.empty_like(means), torch.empty(count, dtype=torch.int64)
        for start in range(0, count, _ENCODED_ROWS):
            rows = range(start, min(start + _ENCODED_ROWS, count))
            batch, part = self.collate(samples.take(rows)), slice(rows.start, rows.stop)
            image, labels[part] = letterbox.unit(batch["image"]), batch["label"]
            noise = Noise(seed, ReservedStep.VIEWS, rows)
            for view in range(self.views):
                seen = _moved(image, self.movement, noise) if view else image
                with torch.inference_mode():
                    found = model.latents(self._seen(seen))
                means[part, view], log_variances[part, view] = found
        return Gaussian(means, log_variances), labels


def label_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the label of a table's row, or None. The confidence must be the largest of the scores."""
    scores = row["scores"]
    if not scores or min(scores) < 0 or abs(sum(scores) - 1) > _ROUNDING:
        return f"the scores {scores} are no probabilities of classes"
    if row["confidence"] is None or abs(max(scores) - row["confidence"]) > _ROUNDING:
        return f"the largest score is {max(scores)}, the confidence {row['confidence']}"
    return None


def class_confusion(label: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """How often each true class (rows) got each class (columns), (k, k) float64."""
    return torch.bincount(label * classes + predicted, minlength=classes * classes).view(classes, classes).double()


def calibration_bins(scores: Tensor, label: Tensor) -> Tensor:
    """For each of 15 equal bins of the confidence: its sum, the hits, and the images, (15, 3) float64."""
    confidence, predicted = scores.double().max(1)
    place = (confidence * _BINS).long().clamp(max=_BINS - 1)
    values = torch.stack([confidence, (predicted == label).double(), torch.ones_like(confidence)], dim=1)
    return torch.zeros(_BINS, 3, dtype=torch.float64, device=scores.device).index_add(0, place, values)


def calibration_error(bins: Tensor) -> float:
    """The expected calibration error (Naeini et al. 2015) from `calibration_bins`; NaN without images."""
    count = float(bins[:, 2].sum())
    return float((bins[:, 0] - bins[:, 1]).abs().sum() / count) if count else math.nan


def check_labels(samples: dict[str, int]) -> None:
    """`RequestError` if a class has no training image. ``samples``: the images of each class."""
    missing = [name for name, count in samples.items() if not count]
    if missing:
        raise RequestError(f"every class needs a training image that can be read; {missing[0]!r} has none")


def _moved(image: Tensor, strength: float, noise: Noise) -> Tensor:
    affine, bend = noise.normal(*AFFINE, device=image.device), noise.normal(*BEND, device=image.device)
    return moved(image, strength, affine, bend).clamp(0, 1)
