"""MNIST classified from the latents of an autoencoder: with 100 labels, with 1,000, and with all.

The autoencoder (M1) never sees a label, nor the images from 50,000 on. Classifiers see each image in 8 views, itself
and as it might have been written otherwise (`moved`); an image's class is the mean answer for its views. Every setting
here was chosen with those 10,000 held out; the official test images are looked at once, by `rows`. Resumable: what is
trained is kept in ``--work``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from benchmarks import mnist
from benchmarks.measures.evaluating import random_batches
from benchmarks.measures.latent_classification import ClassificationConfig, classification_rows
from benchmarks.record import data_folder, record
from pipeline import config
from pipeline.images import movement
from pipeline.images.movement import AFFINE, BEND
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.objectives.objective import elbo
from pipeline.training.optimiser import minimise, schedule

M1 = ConvVAEConfig(
    channels=1,
    widths=(32, 64),
    blocks=(0, 1),
    decoder_blocks=(0, 0),
    likelihood="bernoulli",
    latent="dense",
    size_px=(28, 28),
    latent_channels=48,
)
#: Labels, and the seed that they are drawn with.
DRAWS = [(100, 0), (100, 1), (100, 2), (1000, 0), (1000, 1), (1000, 2), (None, 0)]
SETTINGS = ClassificationConfig(steps=7000, unlabelled_rows=192, views=2, alpha=10.0)
#: Views of each image, of training or to classify: the image itself, and moved ones.
VIEWS = 8
# More threads wait for each other, where others use the cores too.
_THREADS = 1
_ENCODED_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class M1Training:
    epochs: int = 10
    """Passes over the images."""
    batch_rows: int = 128
    """Images in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; linear warm-up, then a cosine to zero."""
    clip_norm: float = 100.0
    """Largest norm of the gradient of the mean bound, in nats."""
    strength: float = 0.5
    """How far images are moved, see `moved`."""
    seed: int = 0
    """Seed of weights, order, movements and noise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/classification"), help="where what is trained goes")
    parser.add_argument("--small", action="store_true", help="few images and steps: shows that it runs")
    parser.add_argument("--held-out", action="store_true", help="errors on the last 10,000 training images instead")
    arguments = parser.parse_args()
    torch.set_num_threads(_THREADS)
    try:
        found = rows(arguments.work, arguments.small, arguments.held_out)
    except FileNotFoundError as reason:
        sys.exit(str(reason))
    if arguments.held_out:
        print(json.dumps([*found, headline(found)], indent=0))
    else:
        record("classification", found, headline(found), str(__doc__), small=arguments.small)


def rows(work: Path, small: bool, held_out: bool = False) -> list[dict[str, Any]]:
    """``{classifier, labels, seed, error}`` of every classifier, for each number of labels and each draw of them.

    ``error`` is on the official test images; with ``held_out``, on the last 10,000 training images, which then have no
    part in training. ``small`` shows that it runs, not how good it is, and never looks at the test images. Raises
    `FileNotFoundError` without the data.
    """
    folder = data_folder()
    if folder is None or not (folder / "mnist").is_dir():
        raise FileNotFoundError("PARQUETRY_DATA names no folder with mnist in it")
    images, labels = mnist.load(folder / "mnist", "train")
    fitted = len(images) - mnist.HELD_OUT
    if held_out or small:
        test_images, test_labels = images[fitted:], labels[fitted:]
        images, labels = images[:fitted], labels[:fitted]
    else:
        test_images, test_labels = mnist.load(folder / "mnist", "test")
    m1_settings, settings, views = M1Training(), SETTINGS, VIEWS
    if small:
        images, labels, test_images, test_labels = images[:3000], labels[:3000], test_images[:1000], test_labels[:1000]
        m1_settings, settings, views = M1Training(epochs=1), dataclasses.replace(settings, steps=50), 2
    work.mkdir(parents=True, exist_ok=True)
    model = kept_m1(work, mnist.unit(images[:fitted]), m1_settings)
    identity = config.digest([config.to_dict(item) for item in (M1, m1_settings, settings)] + [views, held_out, small])
    found: list[dict[str, Any]] = []
    latents: list[Gaussian] | None = None
    for count, seed in DRAWS:
        file = work / f"errors-{count or 'all'}-{seed}-{identity[:8]}.json"
        if not file.exists():
            if latents is None:
                generator = torch.Generator().manual_seed(m1_settings.seed)
                latents = [
                    views_of(model, mnist.unit(given), views, m1_settings.strength, generator)
                    for given in (images, test_images)
                ]
            errors = classification_rows(latents[0], labels, latents[1], test_labels, settings, count=count, seed=seed)
            print(file.name, errors, file=sys.stderr, flush=True)
            file.write_text(json.dumps(errors))
        found += json.loads(file.read_text())
    return found


def headline(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean errors of M1+M2, the classifier that was chosen before the test images were looked at."""
    names = {100: "error_100", 1000: "error_1000"}
    errors: dict[str, list[float]] = {name: [] for name in (*names.values(), "error_all")}
    for row in found:
        if row["classifier"] == "m1+m2":
            errors[names.get(row["labels"], "error_all")].append(row["error"])
    return {name: float(np.mean(values)) if values else None for name, values in errors.items()}


def kept_m1(work: Path, images: Float[Tensor, "n 1 h w"], settings: M1Training) -> ConvVAE:
    """The autoencoder in ``work``; trained, and kept there, if there is none of these settings and this many images."""
    identity = config.digest([config.to_dict(M1), config.to_dict(settings), len(images)])
    file = work / f"m1-{identity[:8]}.safetensors"
    if file.exists():
        model = ConvVAE(M1).eval()
        model.load_state_dict(load_file(file))
        return model
    model = train_m1(images, settings)
    save_file(model.state_dict(), file)
    return model


def train_m1(images: Float[Tensor, "n 1 h w"], settings: M1Training) -> ConvVAE:
    """The autoencoder after training on the evidence lower bound, in float32 with bfloat16 inside."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model = ConvVAE(M1)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    steps = settings.epochs * len(images) // settings.batch_rows
    rate = LambdaLR(optimizer, lambda step: schedule(step, steps, 0.05))
    batches = random_batches(len(images), settings.batch_rows, generator)
    started, mean = time.monotonic(), math.nan

    def cost(_: int) -> Tensor:
        batch = moved(images[next(batches)], settings.strength, generator).clamp(0, 1)
        noise = torch.randn(len(batch), M1.latent_channels, 1, 1, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            return elbo(model, batch, model.infer(batch, [noise])).total().mean()

    def report(step: int, value: float) -> None:
        nonlocal mean
        mean = value if math.isnan(mean) else 0.98 * mean + 0.02 * value
        if step % 100 == 99:
            note = f"M1 step {step + 1} of {steps}: {mean:.2f} nats, {time.monotonic() - started:.0f} s"
            print(note, file=sys.stderr, flush=True)

    minimise(cost, optimizer, rate, steps, clip_norm=settings.clip_norm, report=report)
    return model.eval()


def views_of(
    model: ConvVAE, images: Float[Tensor, "n 1 h w"], views: int, strength: float, generator: torch.Generator
) -> Gaussian:
    """Posteriors (n, views, d) of the latents of images: of each as it is, and moved at random ``views - 1`` times."""
    means = torch.empty(len(images), views, M1.latent_channels)
    log_variances = torch.empty_like(means)
    for start in range(0, len(images), _ENCODED_ROWS):
        image = images[start : start + _ENCODED_ROWS]
        for view in range(views):
            seen = moved(image, strength, generator).clamp(0, 1) if view else image
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                posterior = model.level(model.encode(seen)[0], None).posterior
            assert posterior is not None, "M1 has a Gaussian code"
            means[start : start + len(image), view] = posterior.mean.flatten(1)
            log_variances[start : start + len(image), view] = posterior.log_variance.flatten(1)
    return Gaussian(means, log_variances)


def moved(image: Float[Tensor, "b 1 h w"], strength: float, generator: torch.Generator) -> Tensor:
    """Images turned, scaled, sheared, shifted and bent at random, as handwriting varies (Simard et al. 2003).

    `pipeline.images.movement` says how far; here a shift of deviation 1 is 1.4 pixels, and a bend about 1 pixel.
    """
    affine, bend = (torch.randn(len(image), *shape, generator=generator) for shape in (AFFINE, BEND))
    return movement.moved(image, strength, affine, bend, outside="zeros")


if __name__ == "__main__":
    main()
