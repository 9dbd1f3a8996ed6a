"""Scores of novelty on photographs: which of them tells folders of other images from a segmenter's own kind.

A package that was trained on CamVid sees its test images, which are familiar, and folders of strangers. For each score,
the table has the AUROC with which it tells one from the other: the uncertainty of the mask (mean entropy), the energy
and the largest logit (Liu et al. 2020, Hendrycks et al. 2022), and distances in the segmenter's own features to those
of 160 training images, as a Gaussian with all or with a few principal components, or to the fifth nearest image.
Strangers are the folders given by ``--strangers``, of any images, and held-out images that are made strange.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.feature_gaussian import auroc
from pipeline.images.feature_novelty import STRANGE, features, reference
from pipeline.images.inputs import FORMATS, decode_fitted
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.interface import Segmenter

_LEARNED, _KNOWN, _TRIED = 160, 100, 60
_NEIGHBOUR = 5
_SUFFIXES = {f".{name.lower()}" for name in FORMATS} | {".jpg", ".tif"}

#: Of each image: features, uncertainty, energy and largest logit.
Measured = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a package trained on CamVid, with --resize fit")
    parser.add_argument("--strangers", nargs="*", default=[], metavar="FOLDER", help="of other images")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with camvid in it")
    found = package.load(arguments.model)
    task, model = config.from_dict(ImageSegmentation, found.task), found.model()
    assert isinstance(model, Segmenter)
    train, test = (split(data / "camvid", name) for name in ("train", "test"))
    learned = measured(task, model, images(task, spread(train, _LEARNED)))["features"]
    familiar = list(images(task, spread(test, _KNOWN)))
    known = measured(task, model, familiar)
    rows = []
    for folder in map(Path, arguments.strangers):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        rows.append(row(folder.name, learned, known, measured(task, model, images(task, spread(files, _KNOWN)))))
    for name, change in STRANGE.items():
        changed = (change(image) for image in familiar[:_TRIED])
        rows.append(row(f"test images, {name}", learned, known, measured(task, model, changed)))
    scores = [key for key in rows[0] if key not in ("strangers", "images")]
    headline = {key: float(np.mean([one[key] for one in rows])) for key in scores}
    record("photo_novelty", rows, headline, __doc__ or "", small=False)


def split(folder: Path, name: str) -> list[Path]:
    return [folder / line.split()[0] for line in (folder / f"{name}.txt").read_text().splitlines() if line.strip()]


def spread(files: list[Path], count: int) -> list[Path]:
    """At most ``count`` of the files, evenly spread."""
    return [files[int(place)] for place in np.linspace(0, len(files) - 1, min(count, len(files)))]


def images(task: ImageSegmentation, files: Iterable[Path]) -> Iterable[Tensor]:
    """The images as the model sees them, without padding, (3, h, w) in [0, 1]."""
    for file in files:
        fitted = decode_fitted(file.read_bytes(), task.max_pixels, task.height_px, task.width_px)
        pixels = torch.from_numpy(fitted.pixels[: fitted.valid_height, : fitted.valid_width].copy())
        yield pixels.permute(2, 0, 1).float() / 255


def measured(task: ImageSegmentation, model: Segmenter, seen: Iterable[Tensor]) -> Measured:
    found: dict[str, list[Any]] = {"features": [], "uncertainty": [], "energy": [], "largest logit": []}
    for image in seen:
        with torch.inference_mode(), model.coarsest_maps() as maps:
            logits = model(image[None])[0] / task.temperature
        found["features"].append(features(maps[0], [(1.0, 1.0)])[0])
        logs = logits.log_softmax(0)
        found["uncertainty"].append(-(logs.exp() * logs).sum(0).mean().item())
        found["energy"].append(-logits.logsumexp(0).mean().item())
        found["largest logit"].append(-logits.amax(0).mean().item())
    return {name: np.stack(values) for name, values in found.items()}


def row(name: str, learned: np.ndarray, known: Measured, strange: Measured) -> dict[str, Any]:
    scores = {key: auroc(known[key], strange[key]) for key in ("uncertainty", "energy", "largest logit")}
    mean, deviation = learned.mean(0), learned.std(0) + 1e-6
    fit, mine, theirs = ((values - mean) / deviation for values in (learned, known["features"], strange["features"]))
    whole, few = LedoitWolf().fit(fit), reference(learned, known["features"])
    scores["Gaussian, all components"] = auroc(whole.mahalanobis(mine), whole.mahalanobis(theirs))
    scores["Gaussian, 16 components"] = auroc(few.raw(known["features"]), few.raw(strange["features"]))
    scores["fifth nearest"] = auroc(nearest(fit, mine), nearest(fit, theirs))
    return {"strangers": name, "images": len(strange["energy"]), **scores}


def nearest(fit: np.ndarray, values: np.ndarray) -> np.ndarray:
    distances = np.linalg.norm(values[:, None] - fit[None], axis=2)
    return np.sort(distances, axis=1)[:, _NEIGHBOUR - 1]


if __name__ == "__main__":
    main()
