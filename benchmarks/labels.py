"""What labels are worth: segmenters from scratch and from autoencoders, with 11 and with 367 labelled CamVid images.

All arms have the same network (`unet`, or `vae_unet`, which is the same but for its branch), the same number of steps
and the same settings. Autoencoders see all training images and no labels, once for all seeds; test is never seen in
training. The 11 images are every 33rd of the training split. Figures are mIoU on test, at each image's own size, by
``evaluate``, with the weights that were best on val. Intervals are 95 % of Student's t over the seeds.
Resumable: what is measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.camvid import job
from benchmarks.measures.interval_plot import Mark, interval_plot
from benchmarks.record import data_folder, record

_SHAPE = {"widths": [16, 32, 64, 96], "blocks": [1, 2, 2, 2]}
_FEW = 11
PLOT = Path(__file__).parent.parent / "docs" / "labels.svg"
#: What each arm starts from, and its network.
ARMS: dict[str, tuple[str | None, str]] = {
    "scratch": (None, "unet"),
    "vae": ("vae", "unet"),
    "sparse": ("sparse", "unet"),
    "vae_unet": (None, "vae_unet"),
}
_AUTOENCODERS = {
    "vae": [],
    "sparse": ["--model.code", "hard_concrete", "--task.objective.terms", '["sparsity"]'],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/labels"), help="where packages go")
    parser.add_argument("--steps", type=int, default=1800, help="of each segmenter, 8 images each")
    parser.add_argument("--autoencoder-epochs", type=int, default=20)
    parser.add_argument("--height-px", type=int, default=180, help="of what the networks see; the width is 4/3 of it")
    parser.add_argument("--threads", type=int, help="of each training; without it, as many as there are cores")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--small", action="store_true", help="one seed and a few steps: shows only that it runs")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with camvid in it")
    camvid, work = data / "camvid", arguments.work / ("small" if arguments.small else "")
    plan, seeds = Plan.of(arguments), arguments.seeds[:1] if arguments.small else arguments.seeds
    every = sum(1 for line in (camvid / "train.txt").read_text().splitlines() if line.strip())
    folders = {_FEW: few_labels(camvid, work / "few", _FEW), every: camvid}
    found = [
        {"arm": arm, "n": count, "seed": seed, "mIoU": measured(camvid, folder, count, arm, seed, plan, work)}
        for seed in seeds  # first, so that a benchmark that is cut off has whole seeds
        for count, folder in folders.items()
        for arm in ARMS
    ]
    rows = [summary(found, arm, count) for count in folders for arm in ARMS]
    means = {(row["arm"], row["n"]): row["mIoU"] for row in rows}
    best = max((arm for arm in ARMS if arm != "scratch"), key=lambda arm: means[arm, _FEW])
    headline = {
        "best_arm_at_11": best,
        "gain_at_11": means[best, _FEW] - means["scratch", _FEW],
        "gain_at_367": max(means[arm, every] for arm in ARMS if arm != "scratch") - means["scratch", every],
    }
    if not arguments.small:
        PLOT.write_text(plot(rows))
    record("labels", rows, headline, __doc__ or "", small=arguments.small)


def plot(rows: list[dict[str, Any]]) -> str:
    """The means with their intervals, as SVG."""
    groups = {
        f"{count} labelled images": [
            Mark(name=row["arm"], mean=row["mIoU"], reach=row["reach"], values=row["seeds"])
            for row in rows
            if row["n"] == count
        ]
        for count in dict.fromkeys(row["n"] for row in rows)
    }
    return interval_plot("What an autoencoder is worth to a segmenter: CamVid, equal steps", groups, "mIoU on test")


@dataclass(frozen=True)
class Plan:
    """What all trainings share."""

    steps: int
    autoencoder_epochs: int
    height_px: int
    threads: int | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        short = (24, 1) if arguments.small else (arguments.steps, arguments.autoencoder_epochs)
        return cls(*short, arguments.height_px, arguments.threads)

    @property
    def width_px(self) -> int:
        return self.height_px * 4 // 3

    @property
    def on(self) -> list[Any]:
        return [] if self.threads is None else ["--train.threads", self.threads]


def measured(camvid: Path, folder: Path, count: int, arm: str, seed: int, plan: Plan, work: Path) -> float:
    """The test mIoU of one training."""
    out = work / f"{arm}-{count}-{seed}"
    done = out / "measured.json"
    if done.exists():
        return json.loads(done.read_text())["miou"]
    source, architecture = ARMS[arm]
    passes = max(1, plan.steps * 8 // count)
    given = ["--images", folder, "--out", out, "--architecture", architecture, "--recipe", "none", *plan.on]
    given += ["--height_px", plan.height_px, "--width_px", plan.width_px]
    given += ["--baseline", "none", "--objective", "cross_entropy + 0.5 * dice", "--train.epochs", passes]
    given += ["--train.evaluate_every_epochs", max(1, passes // 6), "--train.batch_rows", 8]
    given += ["--train.learning_rate", 0.002, "--train.precision", "bfloat16", "--train.seed", seed]
    if source is None:
        given += [item for name, value in _SHAPE.items() for item in (f"--{name}", json.dumps(value))]
    else:
        given += ["--init", autoencoder(camvid, source, plan, work)]
    job("train_image_segmenter", *given)
    found = job("evaluate", "--model", out, "--data", camvid, "--split", "test")["metrics"]["miou"]
    done.write_text(json.dumps({"miou": found}))
    return found


def autoencoder(camvid: Path, name: str, plan: Plan, work: Path) -> Path:
    """Train an autoencoder on the training images, or find it there."""
    out = work / name
    shape = [item for key, value in _SHAPE.items() for item in (f"--model.{key}", json.dumps(value))]
    box = ["--task.height_px", plan.height_px, "--task.width_px", plan.width_px, *plan.on]
    epochs = plan.autoencoder_epochs
    given = ["--train.epochs", epochs, "--train.precision", "bfloat16", "--train.evaluate_every_epochs", epochs]
    job("train_autoencoder", "--images", camvid, "--out", out, *shape, *box, *_AUTOENCODERS[name], *given)
    return out


def few_labels(camvid: Path, folder: Path, count: int) -> Path:
    """A labelled folder with ``count`` of the training images, spread evenly, and all of val."""
    for split in ("train", "val"):
        lines = [line for line in (camvid / f"{split}.txt").read_text().splitlines() if line.strip()]
        if split == "train":
            lines = lines[:: len(lines) // count][:count]
        for name in (name for line in lines for name in line.split()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                shutil.copy2(camvid / name, folder / name)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    shutil.copy2(camvid / "classes.json", folder)
    return folder


def summary(found: list[dict[str, Any]], arm: str, count: int) -> dict[str, Any]:
    """Mean and interval over the seeds of an arm."""
    values = [row["mIoU"] for row in found if (row["arm"], row["n"]) == (arm, count)]
    row = {"arm": arm, "n": count, "mIoU": statistics.fmean(values), "reach": None, "seeds": values}
    if len(values) > 1:
        spread = statistics.stdev(values) / math.sqrt(len(values))
        row["reach"] = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return row


if __name__ == "__main__":
    main()
