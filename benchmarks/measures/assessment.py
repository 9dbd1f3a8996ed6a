"""All figures of a generative model's samples at once, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from benchmarks.measures import bootstrap, fidelity
from benchmarks.measures.bootstrap import Estimate, centred, mean_estimate, percentiles
from benchmarks.measures.class_balance import class_entropy, class_kl, class_shares, drawn_shares
from benchmarks.measures.duplicates import QUANTILE, birthday_support, drawn_pairs, duplicates, memory
from benchmarks.measures.evaluating import Rows, picked, unit_images
from benchmarks.measures.image_features import Classifier, Described, describe
from benchmarks.measures.sharpness import CUTOFF, high_frequency_power, laplacian_variance
from pipeline.config import check
from pipeline.errors import RequestError

#: Every figure of `assess`, and what it says.
FIGURES = {
    "fld": "Frechet distance of the classifier's features to held-out images",
    "fld_floor": "the same distance of as many training images",
    "precision": "samples within the real manifold",
    "recall": "real images within the samples' manifold",
    "density": "real neighbourhoods that a sample is in, over k; 1 for real images",
    "coverage": "real images with a sample in their neighbourhood; 1 - 2^-k for real images",
    "high_frequency": "power above the cutoff over that of real images",
    "laplacian": "variance of the Laplacian over that of real images",
    "duplicates": "samples that have another as near as few real images have; the quantile for real images",
    "support": "different samples, by the birthday test",
    "support_real": "different real images, by the same test",
    "nearer_training": "samples nearer to a training image than to a held-out one; 0.5 if nothing is memorised",
    "training_distance": "mean distance to training images over that to held-out ones; 1 if nothing is memorised",
    "class_kl": "KL from the real classes to the samples', nats",
    "class_entropy": "entropy of the samples' classes, nats",
    "confidence": "mean probability of the predicted class",
    "confidence_real": "the same of real images",
}


@dataclass(frozen=True, kw_only=True)
class AssessConfig:
    k: int = 5
    """Neighbour that real and sampled neighbourhoods reach to."""
    quantile: float = QUANTILE
    """Part of real images whose nearest neighbour counts as a duplicate."""
    cutoff: float = CUTOFF
    """Cycles per pixel from which power counts as high."""
    replicates: int = bootstrap.REPLICATES
    """Sets drawn again for the intervals."""
    seed: int = 0
    """Of the choice of images and of what is drawn again."""

    def __post_init__(self) -> None:
        check(self, "k", self.k >= 1, "be at least 1")
        check(self, "quantile", 0 < self.quantile < 1, "be in (0, 1)")
        check(self, "cutoff", 0 < self.cutoff < 0.5, "be in (0, 0.5)")
        check(self, "replicates", self.replicates >= 2, "be at least 2")


def assess(
    samples: Rows, real_train: Rows, real_test: Rows, classifier: Classifier, config: AssessConfig | None = None
) -> dict[str, Estimate]:
    """`FIGURES` of samples, with their intervals; images are (n, c, h, w) floats in [0, 1].

    All but the floor and memorisation compare with ``real_test``, which neither the model nor the classifier has seen.
    Every set is cut to the size of the smallest, by a choice at random: distances between moments, and those to nearest
    neighbours, depend on how many there are. So figures of two models compare if they are of as many images, and the
    published ones are of 10,000.
    """
    config = config or AssessConfig()
    made, train, test = _sets(samples, real_train, real_test, config)
    mine, known, real = (describe(classifier, images) for images in (made, train, test))
    times = [bootstrap.draws(len(made), config.seed + place, config.replicates) for place in range(3)]
    found = _distances(mine, known, real, times)
    found |= _manifolds(mine, real, times, config.k)
    for name, measure in (
        ("high_frequency", lambda images: high_frequency_power(images, config.cutoff)),
        ("laplacian", laplacian_variance),
    ):
        found[name] = _ratio(measure(made), measure(test), times[0], times[2])
    found |= _copies(mine, real, times, config.quantile)
    nearest = memory(*(np.asarray(images.flatten(1)) for images in (made, train, test)))
    found["nearer_training"] = mean_estimate(nearest.nearer, times[0])
    found["training_distance"] = _ratio(nearest.training, nearest.held_out, times[0], times[0])
    found |= _classes(mine, real, classifier.config.classes, config)
    found["confidence"] = mean_estimate(mine.confidence, times[0])
    found["confidence_real"] = mean_estimate(real.confidence, times[2])
    return {name: found[name] for name in FIGURES}


def _sets(samples: Rows, real_train: Rows, real_test: Rows, config: AssessConfig) -> list:
    named = {"samples": samples, "real_train": real_train, "real_test": real_test}
    sets = {name: unit_images(images, name) for name, images in named.items()}
    shapes = {tuple(images.shape[1:]) for images in sets.values()}
    count = min(len(images) for images in sets.values())
    if len(shapes) > 1:
        raise RequestError(f"samples, real_train and real_test must be images of one shape, got {sorted(shapes)}")
    if count <= config.k:
        raise RequestError(
            f"samples, real_train and real_test must be more than AssessConfig.k {config.k}, got {count}"
        )
    return [picked(images, count, config.seed) for images in sets.values()]


def _distances(mine: Described, known: Described, real: Described, times: list[np.ndarray]) -> dict[str, Estimate]:
    one, floor, other = (fidelity.moments(found.features) for found in (mine, known, real))
    drawn, drawn_floor, drawn_other = (
        fidelity.drawn_moments(found.features, often) for found, often in zip((mine, known, real), times, strict=True)
    )
    return {
        "fld": centred(fidelity.frechet(one, other), fidelity.drawn_frechet(drawn, drawn_other)),
        "fld_floor": centred(fidelity.frechet(floor, other), fidelity.drawn_frechet(drawn_floor, drawn_other)),
    }


def _manifolds(mine: Described, real: Described, times: list[np.ndarray], k: int) -> dict[str, Estimate]:
    found = fidelity.prdc(mine.features, real.features, k)
    of_samples = {name: mean_estimate(getattr(found, name), times[0]) for name in ("precision", "density")}
    return of_samples | {name: mean_estimate(getattr(found, name), times[2]) for name in ("recall", "coverage")}


def _copies(mine: Described, real: Described, times: list[np.ndarray], quantile: float) -> dict[str, Estimate]:
    found = duplicates(mine.features, real.features, quantile)
    estimates = {"duplicates": mean_estimate(found.near, times[0])}
    for name, close, often in (("support", found.close, times[0]), ("support_real", found.close_real, times[2])):
        pairs = drawn_pairs(close, bootstrap.means(often, close[:, None])[:, 0])
        support = np.array([birthday_support(value, len(close)) for value in pairs])
        estimates[name] = percentiles(birthday_support(close.sum() / 2, len(close)), support)
    return estimates


def _classes(mine: Described, real: Described, classes: int, config: AssessConfig) -> dict[str, Estimate]:
    shares, real_shares = (class_shares(found.labels, classes) for found in (mine, real))
    drawn, real_drawn = (
        drawn_shares(found.labels, classes, config.replicates, config.seed + place)
        for place, found in enumerate((mine, real))
    )
    count = len(real.labels)
    return {
        "class_kl": centred(class_kl(shares, real_shares, count).item(), class_kl(drawn, real_drawn, count)),
        "class_entropy": percentiles(class_entropy(shares).item(), class_entropy(drawn)),
    }


def _ratio(
    values: Float[np.ndarray, " n"],
    real: Float[np.ndarray, " m"],
    times: Float[np.ndarray, "r n"],
    real_times: Float[np.ndarray, "r m"],
) -> Estimate:
    """The mean of one set over the mean of the other; one and the same draw where the sets are pairs."""
    above, below = bootstrap.means(times, values[:, None])[:, 0], bootstrap.means(real_times, real[:, None])[:, 0]
    smallest = np.finfo(np.float64).tiny
    return percentiles(float(values.mean() / max(real.mean(), smallest)), above / np.maximum(below, smallest))
