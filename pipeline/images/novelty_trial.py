"""After a training: whether the segmenter's own features tell strange images from others, and better than the
uncertainty of its masks does. If not, the column ``novelty`` stays null."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.feature_gaussian import auroc
from pipeline.images.calibration import Sureness
from pipeline.images.feature_novelty import STRANGE, FeatureReference, features, reference
from pipeline.images.novelty import LEAST_IMAGES
from pipeline.images.views import plain_view, with_views
from pipeline.models.segmenters.interface import Segmenter

_MOST_TRIED = 24  # held-out images that are made strange

#: An image in its box, (3, h, w) in [0, 1], and the height and width that it fills there.
Seen = tuple[Float[Tensor, "3 h w"], tuple[int, int]]


@dataclass(kw_only=True)
class NoveltyTrial:
    """Collects what a trial needs, batch by batch."""

    model: Segmenter
    tta: str
    learned: list[np.ndarray] = field(default_factory=list)
    held_out: list[np.ndarray] = field(default_factory=list)
    tried: list[Seen] = field(default_factory=list)
    _count: int = 0
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add_learned(self, images: Float[Tensor, "b 3 h w"], valid: list[tuple[int, int]]) -> None:
        """Add training images. ``valid``: the height and the width that each fills of its box."""
        with torch.inference_mode():
            self.learned.append(_described(self.model.feature_maps(images)[-1], images, valid))

    def add_held_out(self, images: Float[Tensor, "b 3 h w"], valid: list[tuple[int, int]]) -> Float[Tensor, "b k h w"]:
        """Add held-out images; returns their logits."""
        logits, described = self._seen(images, valid)
        self.held_out.append(described)
        for seen in zip(images, valid, strict=True):
            # A uniform sample of all images so far (reservoir sampling).
            self._count += 1
            place = len(self.tried) if len(self.tried) < _MOST_TRIED else int(self._random.integers(self._count))
            if place < _MOST_TRIED:
                self.tried[place : place + 1] = [seen]
        return logits

    @property
    def has_enough_held_out(self) -> bool:
        """Whether the training images are worth a look."""
        return sum(map(len, self.held_out)) >= LEAST_IMAGES

    def result(self, temperature: float) -> tuple[FeatureReference | None, str]:
        """The reference, or None if there is to be no novelty, and a sentence about it."""
        for name, parts in (("held-out", self.held_out), ("training", self.learned)):
            count = sum(map(len, parts))
            if count < LEAST_IMAGES:
                return None, f"null: there were {count} {name} images, and at least {LEAST_IMAGES} are needed"
        fitted = reference(np.concatenate(self.learned), np.concatenate(self.held_out))
        known = self._scores(fitted, temperature, lambda image: image)
        strange = [self._scores(fitted, temperature, change) for change in STRANGE.values()]
        novelty, uncertainty = (float(np.mean([auroc(known[i], one[i]) for one in strange])) for i in (0, 1))
        told = f"AUROC {novelty:.3f}, of uncertainty {uncertainty:.3f}, for held-out images that were made strange"
        if novelty <= uncertainty:
            return None, f"null: it tells no more than uncertainty does ({told})"
        return fitted, f"{told} ({', '.join(STRANGE)})"

    def _scores(
        self, fitted: FeatureReference, temperature: float, change: Callable[[Tensor], Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The raw novelty and the uncertainty of the tried images after a change, (n,) each."""
        found, uncertainties = [], []
        for image, (height, width) in self.tried:
            changed = image.clone()
            changed[:, :height, :width] = change(image[:, :height, :width])
            logits, described = self._seen(changed[None], [(height, width)])
            sure = Sureness(temperature)
            for blocks in sure.passing([iter([logits[0, :, :height, :width]])]):
                list(blocks)
            found.append(fitted.raw(described)[0])
            uncertainties.append(sure.uncertainty)
        return np.array(found), np.array(uncertainties)

    def _seen(self, images: Tensor, valid: list[tuple[int, int]]) -> tuple[Tensor, np.ndarray]:
        """Logits and features."""
        with torch.inference_mode(), self.model.coarsest_maps() as maps:
            logits = with_views(self.model, self.tta)(images)
        return logits, _described(maps[plain_view(self.tta)], images, valid)


def _described(maps: Tensor, images: Tensor, valid: Iterable[tuple[int, int]]) -> np.ndarray:
    height, width = images.shape[2:]
    return features(maps, [(rows / height, columns / width) for rows, columns in valid])
