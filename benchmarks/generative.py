"""The autoencoder family on MNIST: likelihood, samples, sparse codes, novelty, classification from latents.

Training sees the first 50,000 training images; the last 10,000 are held out, to choose by and to compare novelty with.
Test images are looked at once, by the figures here.

- Likelihood: images binarised by a Bernoulli draw, anew at each use in training, once with seed 0 for the test.
  Negative log likelihood by importance sampling with 50 samples for all 10,000 test images, and with 200 and 5,000 for
  a random part of them, by the difference estimator; nats, with the standard error that comes from the part.
- Samples: FLD (Frechet distance on our own classifier's features, never FID), beside the floor between real sets.
- Sparse codes: active fraction against squared error, by the cost of an open gate.
- Novelty: AUROC against six kinds of foreign images, beside that of the uncorrected bound.
- Classification: see ``benchmarks.classification``.

Resumable: everything is kept in --work, under names that tell its settings. Parts can run one by one, or at the same
time, with --parts; they are printed, and the results' file is written when all have run.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import classification, generation, mnist, novelty
from benchmarks.generation import Size, kept
from benchmarks.measures.likelihood import corrected_mean, importance_nll
from benchmarks.mnist import SIZE_PX, Arm, Mnist
from benchmarks.record import RESULTS, data_folder, record
from pipeline import config, package
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAEConfig
from pipeline.models.objectives.objective import KLConfig, ObjectiveConfig
from pipeline.training.trainer import TrainConfig

PARTS = ("likelihood", "generation", "sparsity", "novelty", "classification")
#: Pictures that ``docs/figures.md`` shows.
SHOWN = ("plain-prior-0", "plain-mixture-0", "rae-mixture-0", "vae_gan-mixture-0")
#: Samples for all test images, and for a part of them.
FEW, MANY = 50, (200, 5000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run costs: a minute or two, some CPU hours, or a GPU."""

    flat_epochs: int = 60
    ladder_epochs: int = 48
    width: int = 32
    few_images: int = 10_000
    many_images: int = 150
    seeds: int = 3
    strangers: int = 2000
    size: Size = dataclasses.field(default_factory=Size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What the parts of a run share."""

    work: Path
    data: Mnist
    folder: Path
    """All data sets."""
    setting: Setting
    device: torch.device
    small: bool


SETTINGS = {
    "small": Setting(
        flat_epochs=1,
        ladder_epochs=1,
        width=8,
        few_images=50,
        many_images=5,
        seeds=1,
        strangers=50,
        size=Size(epochs=1, batch_rows=512, images=200, replicates=20, classifier_epochs=1, fitted_images=500),
    ),
    "cpu": Setting(),
    "gpu": Setting(flat_epochs=300, ladder_epochs=400, width=64, many_images=1000, size=Size(epochs=50)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(".bench/generative"), help="where what is trained goes")
    parser.add_argument("--small", action="store_true", help="shows that it runs, not how good anything is")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="run and print these parts only")
    parser.add_argument("--seeds", type=int, help="trainings of each remedy, instead of 3")
    arguments = parser.parse_args()
    folder = data_folder()
    if folder is None or not (folder / "mnist").is_dir():
        sys.exit("PARQUETRY_DATA names no folder with mnist in it")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads wait for each other where others use the cores, too
    name = "small" if arguments.small else "gpu" if device.type == "cuda" else "cpu"
    setting, work = SETTINGS[name], arguments.work / name
    if arguments.seeds is not None:
        setting = dataclasses.replace(setting, seeds=arguments.seeds)
    data = mnist.load_all(folder / "mnist")
    if arguments.small:
        data = _fewer(data)
    run = Run(work=work, data=data, folder=folder, setting=setting, device=device, small=arguments.small)
    rows: list[dict[str, Any]] = []
    headline: dict[str, Any] = {}
    for part in arguments.parts:
        found, figures = _PARTS[part](run)
        rows += [{"part": part, **row} for row in found]
        headline |= figures
    protocol, whole = f"seed 0 unless a row has its own; {__doc__}", set(arguments.parts) == set(PARTS)
    record("generative", rows, headline, protocol, small=arguments.small, write=whole)


def likelihood_arms(setting: Setting) -> dict[str, Arm]:
    """The flat autoencoder and the hierarchical one whose likelihoods are measured."""
    stages: dict[str, Any] = {
        "channels": 1,
        "widths": (setting.width, 2 * setting.width, 4 * setting.width),
        "blocks": (1, 1, 1),
        "decoder_blocks": (1, 1, 1),
        "likelihood": "bernoulli",
        "size_px": (SIZE_PX, SIZE_PX),
    }
    train = TrainConfig(
        epochs=setting.flat_epochs,
        batch_rows=64,
        learning_rate=2e-3,
        clip_norm=100.0,
        ema_decay=0.999,
        precision="bfloat16",
    )
    rise = KLConfig(warmup="linear", warmup_steps=2000)
    return {
        "flat": Arm(
            model=ConvVAEConfig(**stages, latent="dense", latent_channels=40),
            train=train,
            objective=ObjectiveConfig(kl=rise),
            binarise=True,
        ),
        "ladder": Arm(
            model=LadderVAEConfig(**stages, latent_channels=(40, 6)),
            train=dataclasses.replace(train, epochs=setting.ladder_epochs),
            objective=ObjectiveConfig(kl=dataclasses.replace(rise, warmup_levels="top")),
            binarise=True,
        ),
    }


def _likelihood(run: Run) -> Any:
    rows = []
    for name, arm in likelihood_arms(run.setting).items():
        settings = [config.to_dict(arm), run.setting.few_images, run.setting.many_images]
        rows.append(kept(run.work, f"nll-{name}", settings, partial(_nll, run, name, arm)))
    return rows, {f"nll_{row['model']}": row[f"nll_{MANY[-1]}"] for row in rows}


def _nll(run: Run, name: str, arm: Arm) -> dict[str, Any]:
    model, trained = mnist.trained(run.work / "models", name, arm, run.data, run.device)
    model = model.to(run.device)
    images = mnist.drawn(run.data.test[: run.setting.few_images], seed=0).to(run.device)
    few = importance_nll(model, images, [FEW], bfloat16=False)[FEW]
    part = np.sort(np.random.default_rng(0).choice(len(images), run.setting.many_images, replace=False))
    many = importance_nll(model, images[torch.from_numpy(part)], MANY, places=part.tolist())
    row: dict[str, Any] = {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_cpu_s": trained["cpu_s"],
        "training_wall_s": trained["wall_s"],
        "held_out_bound": trained["metrics"]["nll_bound"],
        "images": len(images),
        "images_with_more_samples": len(part),
        f"nll_{FEW}": float(few.mean()),
    }
    for count, values in many.items():
        found = corrected_mean(few, values, part)
        row |= {f"nll_{count}": found.value, f"nll_{count}_error": found.standard_error}
    return row


def _generation(run: Run) -> Any:
    rows = generation.rows(run.work, run.data, range(run.setting.seeds), run.setting.size, run.device)
    if not run.small:
        shown = RESULTS / "generative"
        shown.mkdir(exist_ok=True)
        for name in SHOWN:
            shutil.copy(run.work / "pictures" / f"{name}.png", shown)
    lines = generation.summary(rows)
    plain = next(line["fld"] for line in lines if (line["remedy"], line["sampler"]) == ("plain", "prior"))
    best = min(lines, key=lambda line: line["fld"])
    sharpest = min(lines, key=lambda line: abs(line["high_frequency"] - 1))
    return lines, {
        "fld_plain": plain,
        "fld_best": best["fld"],
        "fld_best_of": f"{best['remedy']}, {best['sampler']}",
        "sharpness_best": sharpest["high_frequency"],
        "sharpness_best_of": f"{sharpest['remedy']}, {sharpest['sampler']}",
    }


def _sparsity(run: Run) -> Any:
    return generation.sparsity_rows(run.work, run.data, run.setting.size, run.device), {}


def _novelty(run: Run) -> Any:
    arms = (likelihood_arms(run.setting)["flat"], generation.arm("sigma", 0, run.setting.size))
    settings = [*(config.to_dict(arm) for arm in arms), run.setting.strangers]
    rows = kept(run.work, "novelty", settings, partial(_novelties, run))
    chosen = [row["auroc novelty_raw"] for row in rows if row["model"] == "flat"]
    return rows, {"novelty_auroc_min": min(chosen)}


def _novelties(run: Run) -> list[dict[str, Any]]:
    strange = novelty.strangers(run.folder, run.data, run.setting.strangers)
    rows = []
    for name, arm, under in (
        ("flat", likelihood_arms(run.setting)["flat"], "flat"),
        ("sigma", generation.arm("sigma", 0, run.setting.size), "sigma-0"),
    ):
        model, _ = mnist.trained(run.work / "models", under, arm, run.data, run.device)
        described = package.load(str(run.work / "models" / under)).task
        task = config.from_dict(ImageReconstruction, described)
        if task.reference is None:
            task = novelty.calibrated(model, task, run.data)
        assert task.reference is not None
        weight = task.reference.complexity_weight
        found = novelty.rows(model, task, run.data.test[: run.setting.strangers], strange)
        rows += [{"model": name, "complexity_weight": weight, **row} for row in found]
    return rows


def _classification(run: Run) -> Any:
    rows = classification.rows(run.work / "classification", run.small)
    return rows, classification.headline(rows)


def _fewer(data: Mnist) -> Mnist:
    return Mnist(**{field.name: getattr(data, field.name)[:3000] for field in dataclasses.fields(data)})


_PARTS = {
    "likelihood": _likelihood,
    "generation": _generation,
    "sparsity": _sparsity,
    "novelty": _novelty,
    "classification": _classification,
}

if __name__ == "__main__":
    main()
