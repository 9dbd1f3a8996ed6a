"""Segmenters against a gradient boosting of single pixels, on data sets of several kinds.

Each network is trained by ``train_image_segmenter`` with nothing but its architecture and the minutes; the boosting is
``--architecture pixels``. The best weights are chosen on val. Figures are mIoU on test, at each image's own size, by
``evaluate``. Resumable: what is trained already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.camvid import job
from benchmarks.measures.labelled_sets import SETS
from benchmarks.record import data_folder, record

_LARGE = 0.01  # share of the pixels from which a class counts as large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/segmenters"), help="where data and packages go")
    parser.add_argument("--minutes", type=float, default=10, help="for each network")
    parser.add_argument("--threads", type=int, help="of each training; without it, as many as there are cores")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--architectures", nargs="+", default=["unet"])
    parser.add_argument("--small", action="store_true", help="cells, 20 s each: shows only that it runs")
    arguments = parser.parse_args()
    minutes = 0.3 if arguments.small else arguments.minutes
    data = data_folder()
    camvid = None if data is None else data / "camvid"
    rows: list[dict[str, Any]] = []
    for name in arguments.sets if not arguments.small else ["cells"]:
        folder = SETS[name](camvid, arguments.work / "data" / name)
        if folder is None:
            print(f"{name} needs CamVid, which PARQUETRY_DATA does not name")
            continue
        for architecture in ("pixels", *arguments.architectures):
            rows.append(measured(name, folder, architecture, minutes, arguments.work, arguments.threads))
    record("segmenters", rows, headline(rows), f"seed 0, one run each. {__doc__}", small=arguments.small)


def measured(
    name: str, folder: Path, architecture: str, minutes: float, work: Path, threads: int | None
) -> dict[str, Any]:
    """Train and evaluate; a row of the table."""
    out = work / f"{name}-{architecture}-{minutes:g}"
    done = out / "measured.json"
    if done.exists():
        return json.loads(done.read_text())
    given = ["--images", folder, "--out", out, "--architecture", architecture, "--minutes", minutes]
    given += ["--baseline", "none", *([] if threads is None else ["--train.threads", threads])]
    trained = job("train_image_segmenter", *given)
    found = job("evaluate", "--model", out, "--data", folder, "--split", "test")
    shares = {row["class"]: row["pixels"] for row in found["details"]}
    total = sum(shares.values())
    large = [row["IoU"] for row in found["details"] if total and shares[row["class"]] >= _LARGE * total]
    row = {
        "set": name,
        "architecture": architecture,
        "minutes": round(trained["training_seconds"] / 60, 1),
        "parameters": trained["parameters"],
        "mIoU": found["metrics"]["miou"],
        "least IoU of a large class": min(large, default=None),
        "IoU": {row["class"]: row["IoU"] for row in found["details"]},
    }
    done.write_text(json.dumps(row))
    return row


def headline(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The smallest margin of the networks over the boosting, over all sets; and the worst IoU of a large class."""
    pixels = {row["set"]: row["mIoU"] for row in rows if row["architecture"] == "pixels"}
    networks = [row for row in rows if row["architecture"] != "pixels"]
    margins = {
        name: max(row["mIoU"] for row in networks if row["set"] == name) - value for name, value in pixels.items()
    }
    large = [row["least IoU of a large class"] for row in networks if row["least IoU of a large class"] is not None]
    return {
        "least_margin_over_pixels": min(margins.values(), default=None),
        "least_iou_of_a_large_class": min(large, default=None),
    }


if __name__ == "__main__":
    main()
