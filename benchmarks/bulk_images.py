"""Bulk segmentation of photographs as a user types it, beside its peers, and beside what the machine can do.

Each arm is a command of its own, timed from its start to its end: ours, with the engines float32 and auto; Ray Data as
its documentation shows it; Ray Data at its best; Daft; and a loop over a torch DataLoader. The peers are in
``benchmarks/peers``; they have their own code for everything but the network, which is the same, in float32. All read
the same JPEG files of 0.1 to 4 megapixels from disk, show the network boxes of 180x240, and write PNG masks at the
images' own size to Parquet. Rows are counted, and every mask's size is compared with its photograph's.

The steady rate is that of the files after the first one, by their times of writing. Memory is the largest proportional
set size of an arm's processes. The limit is that of ``benchmarks/peers/limits.py``.

Peers and limits need packages that ours does not, and of which one needs another pyarrow:
``pip install --no-deps --target .bench/peers daft==0.7.26 opencv-python-headless==5.0.0.93 simplejpeg==1.9.0``
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.measures.memory import PeakMemory
from benchmarks.peers.photographs import write_photographs
from benchmarks.record import data_folder, record
from pipeline import package
from pipeline.examples import scenes
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.table.readers import open_delta

TASK = ImageSegmentation(classes=scenes.CLASSES, palette=scenes.PALETTE, height_px=180, width_px=240)
MODELS = {
    "default net": UNetConfig(classes=len(scenes.CLASSES), widths=(16, 32, 64, 96), blocks=(1, 2, 2, 2)),
    "nearly empty net": UNetConfig(classes=len(scenes.CLASSES), widths=(8, 8), blocks=(0, 0)),
}
OURS = {"ours": "float32", "ours, engine auto": "auto"}
PEERS = {
    "ray data by its docs": "ray_documented",
    "ray data at its best": "ray_tuned",
    "daft": "daft_class",
    "dataloader": "dataloader",
}
CORES = os.cpu_count() or 1
_TRAINING_STEPS = 40
_LONGEST_S = 300.0
#: Figures of a peer that failed, or did not end.
_NOTHING: dict[str, Any] = dict.fromkeys(("whole s", "images/s", "first file s", "steady images/s", "peak MiB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=Path(".bench/peers"), help="the folder of the peers' packages")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--small", action="store_true", help="160 images, the nearly empty net: shows that it runs")
    arguments = parser.parse_args()
    if not (arguments.peers / "cv2").is_dir():
        sys.exit(f"{arguments.peers} has no OpenCV; see --help for the command that puts the peers' packages there")
    sys.path.append(str(arguments.peers.resolve()))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), str(arguments.peers.resolve())])
    count = 160 if arguments.small else arguments.images
    names = ["nearly empty net"] if arguments.small else arguments.models
    with tempfile.TemporaryDirectory(prefix="bulk-images-") as folder:
        work = Path(folder)
        data = data_folder()
        camvid = None if data is None or not (data / "camvid").is_dir() else data / "camvid" / "images"
        what = write_photographs(work / "images", count, camvid)
        rows = [row for name in names for row in measured(name, work, 1 if arguments.small else arguments.repeats)]
    protocol = f"{count} photographs ({what}), {CORES} cores, arms in turn, median of {arguments.repeats}. {__doc__}"
    record("bulk_images", rows, headline(rows), protocol, small=arguments.small)


def measured(name: str, work: Path, repeats: int) -> list[dict[str, Any]]:
    """A row for each arm and one for the limit."""
    from benchmarks.peers.limits import limits

    images, model = work / "images", str(work / name.replace(" ", "-"))
    package.save(model, model_name="unet", model=fitted(MODELS[name]), task=TASK, card={})
    commands = {arm: ours(images, model, engine) for arm, engine in OURS.items()}
    commands |= {arm: [f"benchmarks.peers.{module}", str(images), model] for arm, module in PEERS.items()}
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in commands}
    for repeat in range(repeats):
        for arm, command in commands.items():
            sink = work / f"{name}-{arm}-{repeat}".replace(" ", "-").replace(",", "")
            found[arm].append(timed(arm, command, sink, images))
            print(f"{name}, {arm}: {found[arm][-1]['whole s']} s", flush=True)
            shutil.rmtree(sink, ignore_errors=True)
    stages = limits(images, model, CORES)
    best = {stage: min(ways, key=ways.__getitem__) for stage, ways in stages.items()}
    second = sum(stages[stage][way] for stage, way in best.items())
    in_float32 = second - stages["network"][best["network"]] + stages["network"]["float32"]
    rows: list[dict[str, Any]] = [
        {"net": name, "arm": arm} | {key: middle([run[key] for run in runs]) for key in runs[0]}
        for arm, runs in found.items()
    ]
    each = {f"{stage}, {way}": 1e3 * value for stage, ways in stages.items() for way, value in ways.items()}
    rows.append({"net": name, "arm": "limit", "steady images/s": CORES / second, "ms an image and core": each})
    rows.append({"net": name, "arm": "limit, float32", "steady images/s": CORES / in_float32})
    return rows


def ours(images: Path, model: str, engine: str) -> list[str]:
    given = ["jobs.segment_images", "--source", str(images), "--model", model, "--stream.engine", engine]
    return [*given, "--cluster.address", "local"]


def timed(arm: str, command: list[str], sink: Path, images: Path) -> dict[str, Any]:
    """Run a command as a user does, and check what it has written."""
    is_ours = command[0].startswith("jobs.")
    started, wall = time.perf_counter(), time.time()
    given = [sys.executable, "-m", *command, *(["--sink"] if is_ours else []), str(sink)]
    process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with PeakMemory(process.pid) as peak:
        try:
            _, errors = process.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
            print(f"{arm} did not end within {_LONGEST_S:g} s", flush=True)
            return _NOTHING
    whole = time.perf_counter() - started
    if process.returncode:
        what = f"{arm} failed with {process.returncode}: {errors.decode(errors='replace')[-2000:]}"
        if is_ours:
            sys.exit(what)
        print(what, flush=True)
        return _NOTHING
    files = sorted((sink / "table" if is_ours else sink).rglob("*.parquet"), key=lambda file: file.stat().st_mtime)
    files = [file for file in files if "_delta_log" not in file.parts]
    counts = [pq.read_metadata(file).num_rows for file in files]
    check(sink, images, is_ours)
    first, last = (files[place].stat().st_mtime for place in (0, -1))
    steady = sum(counts[1:]) / (last - first) if len(files) > 4 and last > first else None
    return {
        "whole s": whole,
        "images/s": sum(counts) / whole,
        "first file s": first - wall,
        "steady images/s": steady,
        "peak MiB": peak.mebibytes,
    }


def check(sink: Path, images: Path, is_ours: bool) -> None:
    """Exit unless each photograph has a mask of its size."""
    if is_ours:
        rows = open_delta(str(sink)).to_pyarrow_table(columns=["uri", "mask"]).to_pylist()
        masks = {Path(row["uri"]).name: row["mask"]["bytes"] for row in rows}
    else:
        rows = pq.read_table(sink).to_pylist()
        masks = {Path(row["path"]).name: row["mask"] for row in rows}
    assert len(rows) == len(masks) == sum(1 for _ in images.iterdir()), len(rows)
    for name, mask in masks.items():
        assert Image.open(io.BytesIO(mask)).size == Image.open(images / name).size, name


def fitted(config: UNetConfig) -> UNet:
    """A network that has seen some drawn scenes, so that its masks are regions and not noise."""
    torch.manual_seed(0)
    model = UNet(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    pairs = [scenes.scene(seed, TASK.height_px, TASK.width_px) for seed in range(32)]
    for step in range(_TRAINING_STEPS):
        some = [pairs[(8 * step + index) % len(pairs)] for index in range(8)]
        images = torch.stack([torch.from_numpy(image) for image, _ in some]).permute(0, 3, 1, 2).float() / 255
        labels = torch.stack([torch.from_numpy(label) for _, label in some]).long()
        loss = F.cross_entropy(model(images), labels, ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model.eval()


def headline(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Ratios: above 1 ours is faster, or needs more memory."""
    by = {(row["net"], row["arm"]): row for row in rows}
    found: dict[str, float | None] = {}
    for net in dict.fromkeys(row["net"] for row in rows):
        own, auto = by[net, "ours"], by[net, "ours, engine auto"]
        ray = [by[net, arm] for arm in ("ray data by its docs", "ray data at its best")]
        best = min((by[net, arm]["whole s"] for arm in PEERS if by[net, arm]["whole s"]), default=None)
        name = net.replace(" ", "_")
        found |= {
            f"best_peer_{name}": _ratio(best, own["whole s"]),
            f"ray_docs_{name}": _ratio(ray[0]["whole s"], own["whole s"]),
            f"limit_float32_{name}": _ratio(own["steady images/s"], by[net, "limit, float32"]["steady images/s"]),
            f"limit_{name}": _ratio(auto["steady images/s"], by[net, "limit"]["steady images/s"]),
            f"engine_auto_{name}": _ratio(auto["steady images/s"], own["steady images/s"]),
            f"memory_{name}": _ratio(
                own["peak MiB"], min((row["peak MiB"] for row in ray if row["peak MiB"]), default=None)
            ),
        }
    return found


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def middle(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    main()
