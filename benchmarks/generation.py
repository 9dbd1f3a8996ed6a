"""Samples of autoencoders of MNIST, remedy by remedy: how near they are to real digits, how sharp, how different.

Every autoencoder has the same decoder width, the same steps and learning rate, and sees the same images (8-bit gray,
the training images but the last 10,000). The weights of the VAE-GAN were chosen by samples set beside those last
10,000. Samples are expected images, 10,000 of them, compared with the 10,000 test images by features of a classifier of
our own, which is trained on the same training images.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import mnist
from benchmarks.measures import image_features
from benchmarks.measures.active_units import active_units
from benchmarks.measures.assessment import AssessConfig, assess
from benchmarks.measures.bootstrap import Estimate
from benchmarks.mnist import SIZE_PX, Arm, Mnist
from pipeline import config
from pipeline.generation import drawing, fitting
from pipeline.images.grids import encode_png, tile, to_pixels
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.ladder_vae import LadderVAEConfig
from pipeline.models.autoencoders.samplers import MixtureConfig, PriorConfig, SamplerConfig, TwoStageConfig
from pipeline.models.objectives.adversarial import AdversarialConfig
from pipeline.models.objectives.divergences import MMDConfig
from pipeline.models.objectives.objective import KLConfig, ObjectiveConfig
from pipeline.models.objectives.sparsity import SparsityConfig
from pipeline.training.trainer import TrainConfig

LATENTS = 16
SAMPLERS: dict[str, SamplerConfig] = {
    "prior": PriorConfig(),
    "mixture": MixtureConfig(components=50),
    "two_stage": TwoStageConfig(),
}
#: Names of arms, and the samplers whose samples are assessed.
REMEDIES: dict[str, tuple[str, ...]] = {
    "plain": ("prior", "mixture", "two_stage"),
    "beta": ("prior", "mixture"),
    "sigma": ("prior", "mixture", "two_stage"),
    "mmd": ("prior", "mixture"),
    "rae": ("prior", "mixture"),
    "ladder": ("prior", "mixture"),
    "vae_gan": ("prior", "mixture"),
}
#: Costs of an open gate, nats, from dense to sparse.
GATE_COSTS = (0.0, 0.1, 0.25, 0.5, 1.0, 4.0)

_STAGES: dict[str, Any] = {
    "channels": 1,
    "widths": (16, 32, 64),
    "blocks": (1, 1, 1),
    "decoder_blocks": (1, 1, 1),
    "likelihood": "bernoulli",
}
_FITTED_IMAGES = 20_000
_SHOWN = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the same for all arms."""

    epochs: int = 2
    batch_rows: int = 64
    images: int = 10_000
    replicates: int = 300
    classifier_epochs: int = 5
    fitted_images: int = _FITTED_IMAGES


def arm(name: str, seed: int, size: Size) -> Arm:
    """The autoencoder of a remedy."""
    flat: dict[str, Any] = {**_STAGES, "latent": "dense", "size_px": (SIZE_PX, SIZE_PX), "latent_channels": LATENTS}
    train = TrainConfig(
        epochs=size.epochs,
        batch_rows=size.batch_rows,
        learning_rate=2e-3,
        clip_norm=100.0,
        ema_decay=0.998,
        precision="bfloat16",
        seed=seed,
    )
    models: dict[str, ConvVAEConfig | LadderVAEConfig] = {
        "sigma": ConvVAEConfig(**{**flat, "likelihood": "gaussian"}),
        "rae": ConvVAEConfig(**flat, code="deterministic"),
        "ladder": LadderVAEConfig(**_STAGES, size_px=(SIZE_PX, SIZE_PX), latent_channels=(LATENTS, 4)),
    }
    objectives = {
        "beta": ObjectiveConfig(kl=KLConfig(beta=0.25)),
        "mmd": ObjectiveConfig(terms=("kl", "mmd"), kl=KLConfig(beta=0.1), mmd=MMDConfig(weight=1000.0)),
        "rae": ObjectiveConfig(terms=("code_norm",), code_norm=0.1),
        "ladder": ObjectiveConfig(kl=KLConfig(warmup="linear", warmup_levels="top", warmup_steps=500)),
        "vae_gan": ObjectiveConfig(
            terms=("kl", "adversarial"),
            adversarial=AdversarialConfig(channels=1, start_step=100, weight=60.0, features=4.0, r1=0.01),
        ),
    }
    model, objective = models.get(name, ConvVAEConfig(**flat)), objectives.get(name, ObjectiveConfig())
    if name.startswith("gates"):
        model = ConvVAEConfig(**_STAGES, latent_channels=32, code="hard_concrete")
        cost = SparsityConfig(weight=float(name.removeprefix("gates ")))
        objective = ObjectiveConfig(terms=("sparsity",), sparsity=cost)
    return Arm(model=model, objective=objective, train=train)


def rows(work: Path, data: Mnist, seeds: range, size: Size, device: torch.device) -> list[dict[str, Any]]:
    """A row of figures, each with its interval, for each remedy, sampler and seed; seed by seed, kept in ``work``."""
    classifier = kept_classifier(work, data, size)
    found = []
    for seed in seeds:
        for name, samplers in REMEDIES.items():
            for sampler in samplers:
                settings = [config.to_dict(item) for item in (arm(name, seed, size), SAMPLERS[sampler], size)]
                make = partial(_row, work, data, size, device, classifier, name, sampler, seed)
                found.append(kept(work, f"{name}-{sampler}-{seed}", settings, make))
    return found


def sparsity_rows(work: Path, data: Mnist, size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Active fraction of a code of 512, 32 at each of 4 x 4 places, against its squared error on the test images."""
    return [
        kept(
            work,
            f"gates-{cost}",
            config.to_dict(arm(f"gates {cost}", 0, size)),
            partial(_sparse, work, data, size, device, cost),
        )
        for cost in GATE_COSTS
    ]


def kept(work: Path, name: str, settings: Any, make: Callable[[], Any]) -> Any:
    """What ``work`` keeps under a name for settings, as JSON has them; or what is made now and kept there."""
    file = work / "rows" / f"{name}-{config.digest(settings, 8)}.json"
    if not file.exists():
        started = time.monotonic()
        result = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result))
        print(file.name, f"{time.monotonic() - started:.0f} s", result, file=sys.stderr, flush=True)
    return json.loads(file.read_text())


def kept_classifier(work: Path, data: Mnist, size: Size) -> image_features.Classifier:
    """The classifier whose features are compared, frozen."""
    training = image_features.ClassifierTraining(epochs=size.classifier_epochs)
    file = work / f"classifier-{config.digest(config.to_dict(training), 8)}.safetensors"
    if not file.exists():
        classifier = image_features.train_classifier(mnist.unit(data.train), data.train_labels, training=training)
        work.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image_features.dump(classifier))
    return image_features.load(file.read_bytes())


def sampled(model: Autoencoder, sampler: fitting.Sampler, count: int, seed: int) -> Tensor:
    """Expected images (n, 1, h, w) in [0, 1], on the CPU."""
    batches = drawing.draw_images(
        model, sampler, range(count), seed=seed, height=SIZE_PX, width=SIZE_PX, batch_rows=500
    )
    return torch.cat([batch.cpu() for batch in batches])


def _row(
    work: Path,
    data: Mnist,
    size: Size,
    device: torch.device,
    classifier: image_features.Classifier,
    name: str,
    sampler: str,
    seed: int,
) -> dict[str, Any]:
    model, record = mnist.trained(work / "models", f"{name}-{seed}", arm(name, seed, size), data, device)
    model = model.to(device)
    images = mnist.unit(data.train[: size.fitted_images])
    settings = SAMPLERS[sampler]
    found = [
        fitting.latents_of_images(model, images[start : start + 500].to(device), seed, range(start, start + 500))
        for start in range(0, len(images) if settings.levels else 500, 500)
    ]
    latents = [torch.cat([part[level].cpu() for part in found]) for level in range(len(found[0]))]
    drawn = sampled(model, fitting.fit_sampler(settings, latents, seed).to(device), size.images, seed)
    pictures = work / "pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / f"{name}-{sampler}-{seed}.png").write_bytes(encode_png(tile(to_pixels(drawn[:_SHOWN]), 10)))
    figures = assess(
        drawn,
        mnist.unit(data.train),
        mnist.unit(data.test),
        classifier,
        AssessConfig(replicates=size.replicates, seed=seed),
    )
    active = active_units(model.cpu(), mnist.unit(data.test[:2000]), replicates=2) if sampler == "prior" else []
    return {
        "remedy": name,
        "sampler": sampler,
        "seed": seed,
        "training_cpu_s": record["cpu_s"],
        "held_out": record["metrics"],
        "active_units": [int(level.active.value) for level in active] or None,
        **{figure: _plain(value) for figure, value in figures.items()},
    }


def _sparse(work: Path, data: Mnist, size: Size, device: torch.device, cost: float) -> dict[str, Any]:
    model, record = mnist.trained(work / "models", f"gates-{cost}", arm(f"gates {cost}", 0, size), data, device)
    errors, active = [], []
    with torch.inference_mode():
        for start in range(0, len(data.test), 500):
            image = mnist.unit(data.test[start : start + 500])
            inference = model.infer(image, None)
            errors.append((torch.sigmoid(inference.logits) - image).square().mean((1, 2, 3)))
            active.append((inference.code != 0).float().mean(1))
    return {
        "gate_cost_nats": cost,
        "active_fraction": float(torch.cat(active).mean()),
        "squared_error": float(torch.cat(errors).mean()),
        "training_cpu_s": record["cpu_s"],
    }


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds for each remedy and sampler, with the classifier's floor beside the distance.

    ``of_seeds`` has each seed's own row, with the intervals of its figures.
    """
    lines = []
    for name, samplers in REMEDIES.items():
        for sampler in samplers:
            mine = [row for row in found if (row["remedy"], row["sampler"]) == (name, sampler)]
            if not mine:
                continue
            figures = [key for key, value in mine[0].items() if isinstance(value, dict) and "value" in value]
            means = {key: float(np.mean([row[key]["value"] for row in mine])) for key in figures}
            spread = float(np.std([row["fld"]["value"] for row in mine], ddof=1)) if len(mine) > 1 else None
            described = {"remedy": name, "sampler": sampler, "seeds": len(mine), "fld_deviation": spread}
            lines.append({**described, **means, "of_seeds": mine})
    return lines


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"value": float(estimate.value), "low": float(estimate.low), "high": float(estimate.high)}
