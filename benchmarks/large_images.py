"""Masks of large images by tiles: peak memory from 4,000 to 20,000 pixels a side, and pixels that differ from the mask
of the untiled image.

A segmenter is trained on drawn cells with ``--resize tile``, and a mosaic of drawn cells is segmented, one image in a
process of its own, from the JPEG file to the row of the table. ``peak MiB`` is the largest resident memory of this
process, and ``before MiB`` what it has before the image: Python, torch and the network. The untiled mask is that of a
single forward pass over the whole mosaic of 2,048 x 2,048 pixels. The network normalises each pixel over its channels
(``norm`` channel), so what it says of a pixel does not depend on how large its input is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.camvid import job
from benchmarks.measures.labelled_sets import cell_image, cells
from benchmarks.record import record
from pipeline import config, package
from pipeline.images.outputs import decode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.rows import INPUT_SCHEMA

_SIDES = (4_000, 10_000, 20_000)
_UNTILED = 2_048
_DRAWN = 1_024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/large_images"), help="where data and packages go")
    parser.add_argument("--minutes", type=float, default=4, help="for the training")
    parser.add_argument("--small", action="store_true", help="a short training and small images: shows that it runs")
    parser.add_argument("--one", nargs=2, metavar=("PACKAGE", "IMAGE"), help="segment one image in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(*arguments.one)))
        return
    sides = (3_000, 4_000) if arguments.small else _SIDES
    model = trained(arguments.work, 0.3 if arguments.small else arguments.minutes)
    rows = []
    for side in sides:
        image = mosaic(arguments.work / f"{side}.jpg", side)
        command = [sys.executable, "-m", "benchmarks.large_images", "--one", str(model), str(image)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        rows.append({"side px": side, "file MiB": image.stat().st_size / 2**20, **found})
    differing = untiled_difference(model, mosaic(arguments.work / f"{_UNTILED}.jpg", _UNTILED))
    headline = {
        "peak_of_largest_to_smallest": rows[-1]["peak MiB"] / rows[0]["peak MiB"],
        "pixels_unlike_untiled": differing,
    }
    record("large_images", rows, headline, __doc__ or "", small=arguments.small)


def trained(work: Path, minutes: float) -> Path:
    """A package of a tiled segmenter of cells."""
    out = work / f"cells-{minutes:g}"
    if not (out / "package.json").exists():
        given: list[Any] = ["--images", cells(work / "cells"), "--out", out, "--minutes", minutes, "--baseline", "none"]
        job("train_image_segmenter", *given, "--resize", "tile", "--width", 16, "--model.norm", "channel")
    return out


def mosaic(file: Path, side: int) -> Path:
    """A square image of drawn cells, as JPEG."""
    if not file.exists():
        drawn, seed = np.empty((_DRAWN, _DRAWN, 3), np.uint8), 5_000
        for top in range(0, _DRAWN, 256):
            for left in range(0, _DRAWN, 256):
                drawn[top : top + 256, left : left + 256] = cell_image(seed)[0][:256, :256]
                seed += 1
        count = -(-side // _DRAWN)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(drawn, (count, count, 1))[:side, :side]).save(file, quality=90)
    return file


def measured(uri: str, image: str) -> dict[str, float]:
    """Segment one image; seconds, and the memory of this process."""
    torch.set_num_threads(1)
    task, model = opened(uri)
    inputs = row_of(Path(image))
    before, started = peak_mib(), time.perf_counter()
    prepared = task.prepare(inputs)
    assert prepared["error"].null_count == 1, prepared["error"]
    (row,) = task.encode(task.predict(model, prepared.drop(["error"]), torch.device("cpu"))).to_pylist()
    seconds = time.perf_counter() - started
    assert sum(row["class_pixels"]) == row["height"] * row["width"]
    pixels = row["height"] * row["width"] / 1e6
    return {"seconds": seconds, "megapixels/s": pixels / seconds, "before MiB": before, "peak MiB": peak_mib()}


def untiled_difference(uri: Path, image: Path) -> float:
    """The fraction of pixels whose class differs between the tiled mask and that of one pass over the whole image."""
    task, model = opened(str(uri))
    prepared = task.prepare(row_of(image)).drop(["error"])
    (row,) = task.encode(task.predict(model, prepared, torch.device("cpu"))).to_pylist()
    size = row["height"], row["width"]
    pixels = np.frombuffer(prepared["image"][0].as_buffer(), np.uint8)
    shape = [prepared[f"valid_{side}"][0].as_py() for side in ("height", "width")]
    seen = torch.from_numpy(pixels.copy()).reshape(1, *shape, 3)
    with torch.inference_mode():
        logits = model(seen.permute(0, 3, 1, 2).float() / 255)
        whole = torch.nn.functional.interpolate(logits, size, mode="bilinear").argmax(1)[0].numpy()
    return float((decode_mask(row["mask"]["bytes"]) != whole).mean())


def opened(uri: str) -> tuple[ImageSegmentation, torch.nn.Module]:
    found = package.load(uri)
    return config.from_dict(ImageSegmentation, found.task | {"max_pixels": 1 << 30}), found.model()


def row_of(image: Path) -> pa.Table:
    return pa.table({"data": [image.read_bytes()], "format": ["object"], "label": [None]}, INPUT_SCHEMA)


def peak_mib() -> float:
    """The largest resident memory that this process has had. (``ru_maxrss`` would have that of its parent, too.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
