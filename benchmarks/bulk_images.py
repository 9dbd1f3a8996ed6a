"""Bulk image segmentation: ours, Ray Data as its documentation shows it, a torch DataLoader loop, and the bound.

Every arm reads the same JPEG files from disk, runs the same network on boxes of 180x240, and writes Parquet. Start-up
(processes, imports, loading the model) is the time to the first output and is told apart: rates are those of the rest.
The bound is what the cores could do at most: decoding, model, and encoding with writing, each measured alone with every
core busy, one after the other on every core. "empty model" is the same with a network that costs next to nothing, so
that only overhead is left.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image

from benchmarks.record import data_folder, record
from pipeline import package
from pipeline.distributed.run import Run
from pipeline.distributed.session import session
from pipeline.distributed.stages import STAGES
from pipeline.examples.scenes import CLASSES, PALETTE, write_scenes
from pipeline.images.outputs import encode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.counts import RunCounts
from pipeline.runs.plan import RunConfig, RunPlan, StreamConfig

TASK = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=180, width_px=240)
MODELS = {
    "small net": UNetConfig(classes=len(CLASSES), widths=(16, 32, 64, 96), blocks=(1, 1, 1, 1)),
    "empty model": UNetConfig(classes=len(CLASSES), widths=(8, 8), blocks=(0, 0)),
}
BATCH_ROWS = 16
CORES = os.cpu_count() or 1
Times = list[tuple[float, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="two minutes on two cores")
    parser.add_argument("--images", type=int, default=2184)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    count, repeats = (160, 1) if arguments.small else (arguments.images, arguments.repeats)
    models = {"empty model": MODELS["empty model"]} if arguments.small else MODELS
    work = Path(tempfile.mkdtemp(prefix="bulk-images-"))
    try:
        rows, headline, what = measure(work, count, repeats, models)
    finally:
        shutil.rmtree(work)
    protocol = f"{count} images ({what}), arms in turn, median of {repeats}, start-up apart, {CORES} cores. {__doc__}"
    record("bulk_images", rows, headline, protocol, small=arguments.small)


def measure(
    work: Path, count: int, repeats: int, models: dict[str, UNetConfig]
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    what = make_images(work / "images", count)
    rows: list[dict[str, Any]] = []
    rates: dict[tuple[str, str], float] = {}
    memory: dict[tuple[str, str], float] = {}
    with session(ClusterConfig(address="local", gpus=0)):
        for model_name, model_config in models.items():
            torch.manual_seed(0)
            folder = str(work / model_name.replace(" ", "-"))
            package.save(folder, model_name="unet", model=UNet(model_config), task=TASK, card={})
            arms: dict[str, Callable[[Path], dict[str, Any]]] = {
                "bound": lambda _, folder=folder: bound(work / "images", folder),
                "ours": lambda sink, folder=folder: ours(work / "images", folder, sink),
                "ray docs": lambda sink, folder=folder: ray_docs(work / "images", folder, sink),
                "dataloader": lambda sink, folder=folder: dataloader(work / "images", folder, sink),
            }
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
            for repeat in range(repeats):
                for name, arm in arms.items():
                    with PeakMemory() as peak:
                        result = arm(work / "-".join([*model_name.split(), *name.split(), str(repeat)]))
                    found[name].append(result | {"peak MiB": peak.mebibytes})
                    print(f"{model_name}, {name}: {result['images/s']:.0f} images/s", flush=True)
            for name, results in found.items():
                columns = dict.fromkeys(key for result in results for key in result)
                middle = {key: statistics.median(result[key] for result in results) for key in columns}
                rates[model_name, name] = middle["images/s"]
                memory[model_name, name] = middle["peak MiB"]
                rows.append({"model": model_name, "arm": name, **middle})
    return rows, headlines(rates, memory), what


def headlines(rates: dict[tuple[str, str], float], memory: dict[tuple[str, str], float]) -> dict[str, float | None]:
    def ratio(model: str, peers: tuple[str, ...], values: dict[tuple[str, str], float] = rates) -> float | None:
        if (model, "ours") not in values:
            return None
        return values[model, "ours"] / max(values[model, peer] for peer in peers)

    return {
        "ratio_to_bound": ratio("small net", ("bound",)),
        "ratio_to_bound_empty_model": ratio("empty model", ("bound",)),
        "ratio_to_best_peer": ratio("small net", ("ray docs", "dataloader")),
        "ratio_to_ray_docs_empty_model": ratio("empty model", ("ray docs",)),
        "peak_memory_ratio": ratio("small net", ("ray docs", "dataloader"), memory),
    }


def make_images(folder: Path, count: int) -> str:
    """Photographs where there are some, else synthetic scenes; as many files as asked for."""
    folder.mkdir(parents=True)
    data = data_folder()
    if data is not None and (data / "camvid").is_dir():
        sources, what = sorted((data / "camvid" / "images").rglob("*.jpg")), "road scenes 480x360"
    else:
        write_scenes(str(folder.parent / "scenes"), {"train": 64}, height=360, width=480)
        sources, what = sorted((folder.parent / "scenes").rglob("*.jpg")), "synthetic scenes about 480x360"
    for number in range(count):
        shutil.copy(sources[number % len(sources)], folder / f"{number:06d}.jpg")
    return what


def steady(times: Times, started: float) -> dict[str, float]:
    """Start-up and rate, from the moments at which rows came out."""
    total = sum(rows for _, rows in times)
    first, last = times[0], times[-1]
    rate = (total - first[1]) / max(last[0] - first[0], 1e-9) if len(times) > 1 else total / (last[0] - started)
    return {"images/s": rate, "start-up s": first[0] - started, "whole s": last[0] - started}


def ours(images: Path, model: str, sink: Path) -> dict[str, Any]:
    times: Times = []

    class Timed(RunCounts):
        def add(self, *, rows: int, **rest: Any) -> None:
            super().add(rows=rows, **rest)
            times.append((time.perf_counter(), rows))

    started = time.perf_counter()
    plan = RunPlan(
        task=TASK,
        package=package.load(model),
        sources=(str(images),),
        sink=str(sink),
        config=RunConfig(),
        stream=StreamConfig(batch_rows=BATCH_ROWS),
    )
    run = Run(plan, lambda _: None)
    run.counts = Timed()
    assert run.live().exit_code == 0, run.summary
    busy = {f"{stage} s": run.summary["stage_seconds"][stage] / CORES for stage in STAGES}
    return steady(times, started) | busy


class DocsPredictor:
    """What Ray's documentation shows: a class with the model, called with batches."""

    def __init__(self, model: str, began: str) -> None:
        torch.set_num_threads(1)
        self.model, self.began = package.load(model).model(), Path(began)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        if not self.began.exists():
            self.began.write_text(repr(time.time()))
        image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            mask = self.model(image).argmax(1).to(torch.uint8).numpy()
        return {"path": batch["path"], "mask": [encode_mask(item, PALETTE) for item in mask]}


def ray_docs(images: Path, model: str, sink: Path) -> dict[str, Any]:
    """Its masks stay at the model's size; ours are brought to the image's own, which is more work."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 128 << 20
    context.enable_progress_bars = False
    began = sink.parent / f"{sink.name}.began"
    started, wall = time.perf_counter(), time.time()
    dataset = ray.data.read_images(str(images), mode="RGB", size=(TASK.height_px, TASK.width_px), include_paths=True)
    dataset = dataset.map_batches(
        DocsPredictor, fn_constructor_args=(model, str(began)), batch_size=BATCH_ROWS, concurrency=max(1, CORES - 1)
    )
    dataset.write_parquet(str(sink))
    whole = time.perf_counter() - started
    start_up = float(began.read_text()) - wall
    count = sum(1 for _ in images.iterdir())
    return {"images/s": count / (whole - start_up), "start-up s": start_up, "whole s": whole}


class Files(torch.utils.data.Dataset):
    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        return str(self.files[index]), self.files[index].read_bytes()


def prepared(items: list[tuple[str, bytes]]) -> tuple[list[str], pa.Table]:
    data = [data for _, data in items]
    inputs = pa.table({"data": data, "format": ["object"] * len(data), "label": [None] * len(data)}, INPUT_SCHEMA)
    return [name for name, _ in items], TASK.prepare(inputs)


def dataloader(images: Path, model: str, sink: Path) -> dict[str, Any]:
    """A loop over a torch DataLoader with a worker for each core; model, encoding and writing in the main process."""
    sink.mkdir()
    times: Times = []
    started = time.perf_counter()
    network = package.load(model).model()
    torch.set_num_threads(CORES)
    loader = torch.utils.data.DataLoader(
        Files(images), BATCH_ROWS, num_workers=CORES, collate_fn=prepared, multiprocessing_context="spawn"
    )
    held: list[pa.Table] = []
    for names, table in loader:
        encoded = TASK.encode(TASK.predict(network, table, torch.device("cpu")))
        held.append(encoded.append_column("path", pa.array(names)))
        if len(held) == 8:
            pq.write_table(pa.concat_tables(held), sink / f"{len(times):05d}.parquet")
            held = []
        times.append((time.perf_counter(), len(names)))
    if held:
        pq.write_table(pa.concat_tables(held), sink / "last.parquet")
        times.append((time.perf_counter(), 0))
    return steady(times, started)


def bound(images: Path, model: str) -> dict[str, Any]:
    """Images a second when every core does nothing but decode, predict, encode and write, each measured alone."""
    with multiprocessing.get_context("spawn").Pool(CORES, _ready) as pool:
        pool.map(_alone, [("decode", str(images), model)] * CORES, chunksize=1)
        seconds = {}
        for stage in ("decode", "model", "encode"):
            seconds[stage] = statistics.mean(pool.map(_alone, [(stage, str(images), model)] * CORES, chunksize=1))
    rate = CORES / sum(seconds.values())
    return {"images/s": rate} | {f"{stage} images/s": CORES / value for stage, value in seconds.items()}


def _ready() -> None:
    torch.set_num_threads(1)


def _alone(what: tuple[str, str, str]) -> float:
    """Seconds for one image in one stage, for about two seconds, while the other cores do the same."""
    stage, folder, model = what
    files = sorted(Path(folder).iterdir())[: 4 * BATCH_ROWS]
    network = package.load(model).model()
    batches = []
    for start in range(0, len(files), BATCH_ROWS):
        names, table = prepared([(str(file), file.read_bytes()) for file in files[start : start + BATCH_ROWS]])
        batches.append((files[start : start + BATCH_ROWS], names, table))
    predicted = [TASK.predict(network, table, torch.device("cpu")) for _, _, table in batches]
    done, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        while time.perf_counter() - started < 2:
            for (paths, _, table), masks in zip(batches, predicted, strict=True):
                if stage == "decode":
                    prepared([(str(file), file.read_bytes()) for file in paths])
                elif stage == "model":
                    TASK.predict(network, table, torch.device("cpu"))
                else:
                    pq.write_table(TASK.encode(masks), f"{scratch}/part.parquet")
                done += len(paths)
    return (time.perf_counter() - started) / done


class PeakMemory:
    """Largest proportional set size of this process and all below it, looked at twice a second."""

    mebibytes = 0.0

    def __enter__(self) -> PeakMemory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.mebibytes = max(self.mebibytes, sum(_pss(pid) for pid in _tree(os.getpid())) / 1024)


def _tree(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = frontier = {root}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - found
        found = found | frontier
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


if __name__ == "__main__":
    Image.init()
    main()
