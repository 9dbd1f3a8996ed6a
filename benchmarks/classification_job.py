"""The commands `train_classifier` and `evaluate` on MNIST as PNG files, beside the same fit on tensors in memory.

Both have the same autoencoder (that of `benchmarks.classification`, trained for a few epochs, kept in ``--work``), the
same few labels and the same images without. Rows: the error on test images of M1+M2 in memory, and of the package that
the commands make. They differ by the random numbers of movements and of the fit alone. Resumable.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import classification, mnist
from benchmarks.camvid import job
from benchmarks.measures.latent_classification import balanced, classification_rows
from benchmarks.record import data_folder, record
from pipeline import package
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAE

TASK = ImageReconstruction(height_px=mnist.SIZE_PX, width_px=mnist.SIZE_PX, channels=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/classification_job"), help="where files go")
    parser.add_argument("--images", type=int, default=20_000, help="training images, the labelled ones among them")
    parser.add_argument("--test", type=int, default=5_000, help="test images, the first of the official ones")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4, help="of the autoencoder")
    parser.add_argument("--steps", type=int, default=3000, help="of M1+M2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--small", action="store_true", help="few images and steps: shows only that it runs")
    arguments = parser.parse_args()
    if arguments.small:
        small = {"images": 600, "test": 200, "epochs": 1, "steps": 100, "seeds": [0]}
        vars(arguments).update(small)
    torch.set_num_threads(1)
    data = data_folder()
    if data is None or not (data / "mnist").is_dir():
        sys.exit("PARQUETRY_DATA names no folder with mnist in it")
    rows = [row for seed in arguments.seeds for row in measured(data / "mnist", arguments, seed)]
    errors = {name: [row["error"] for row in rows if row["way"] == name] for name in ("memory", "job")}
    headline = {f"error_{name}": float(np.mean(values)) for name, values in errors.items()}
    record("classification_job", rows, headline, str(__doc__), small=arguments.small)


def measured(data: Path, given: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """The rows of a draw of labels."""
    name = f"{given.images}-{given.test}-{given.labels}-{given.epochs}-{given.steps}"
    work = given.work / name
    done = work / f"measured-{seed}.json"
    if done.exists():
        return json.loads(done.read_text())
    work.mkdir(parents=True, exist_ok=True)
    images, labels = (part[: given.images] for part in mnist.load(data, "train"))
    test, truth = (part[: given.test] for part in mnist.load(data, "test"))
    training = classification.M1Training(epochs=given.epochs)
    model = classification.kept_m1(work, mnist.unit(images), training)
    chosen = balanced(labels, given.labels, seed)
    errors = {
        "memory": in_memory(model, images, labels, test, truth, given, training.strength, seed),
        "job": by_jobs(work, model, (images, labels, chosen), (test, truth), given, seed),
    }
    rows = [{"way": way, "labels": given.labels, "seed": seed, "error": error} for way, error in errors.items()]
    done.write_text(json.dumps(rows))
    return rows


def in_memory(
    model: ConvVAE,
    images: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    given: argparse.Namespace,
    strength: float,
    seed: int,
) -> float:
    """The error of `benchmarks.classification`'s M1+M2."""
    random = torch.Generator().manual_seed(0)
    views = [
        classification.views_of(model, mnist.unit(part), classification.VIEWS, strength, random)
        for part in (images, test)
    ]
    settings = replace(classification.SETTINGS, steps=given.steps)
    found = classification_rows(
        views[0], labels, views[1], truth, settings, count=given.labels, seed=seed, names=["m1+m2"]
    )
    return found[0]["error"]


def by_jobs(
    work: Path,
    model: ConvVAE,
    training: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    given: argparse.Namespace,
    seed: int,
) -> float:
    """The error of the package of `train_classifier`, by `evaluate`."""
    images, labels, chosen = training
    folder, rest = work / f"png-{seed}", np.setdiff1d(np.arange(len(images)), chosen)
    write_folders(folder, images[chosen], labels[chosen], "train")
    # Labels for the temperature alone: of images that are neither for training nor for the test.
    write_folders(folder, images[rest[:50]], labels[rest[:50]], "val")
    write_folders(folder, *test, "test")
    write_archive(work / f"rest-{seed}.tar", images[rest])
    package.save(str(work / "m1"), model_name="conv_vae", model=model, task=TASK, card={})
    out = work / f"classifier-{seed}"
    fit = ("--fit.steps", given.steps, "--movement", classification.M1Training().strength, "--seed", seed)
    job("train_classifier", "--images", folder, "--model", work / "m1", "--unlabelled", work / f"rest-{seed}.tar",
        "--out", out, *fit)  # fmt: skip
    return 1 - job("evaluate", "--model", out, "--data", folder, "--split", "test")["metrics"]["accuracy"]


def write_folders(folder: Path, images: np.ndarray, labels: np.ndarray, split: str) -> None:
    """Images as PNG files in a folder for each class, and the list of the split."""
    lines = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"{label}/{split}-{index:05d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
        lines.append(name)
    (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_archive(file: Path, images: np.ndarray) -> None:
    """Images as PNG files in a tar archive."""
    with tarfile.open(file, "w") as archive:
        for index, image in enumerate(images):
            Image.fromarray(image).save(content := io.BytesIO(), "PNG")
            member = tarfile.TarInfo(f"{index:05d}.png")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))


if __name__ == "__main__":
    main()
