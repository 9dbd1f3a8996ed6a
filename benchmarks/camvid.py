"""CamVid, the whole way: a segmenter trained from scratch by its recipe, a table, and mIoU from the table.

Official split, 11 classes; the best weights are chosen on val, and test is looked at once, at the end. mIoU is the mean
over 11 classes of the IoU from one confusion matrix over all 233 test images at 480x360, void left out. It is computed
from the mask column of the table and must equal what ``evaluate`` says. The expected calibration error (15 bins) and
the AUROC with which a pixel's entropy finds wrong pixels are of one test pixel in 16, with the package's temperature.
Resumable: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.images.inputs import decode_fitted, decode_label
from pipeline.images.metrics import class_iou, confusion_matrix, miou
from pipeline.images.outputs import decode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.images.views import with_views
from pipeline.table.readers import open_delta

_BINS = 15
_STRIDE_PX = 4
_VOID = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/camvid"), help="where packages and tables go")
    parser.add_argument("--minutes", type=float, default=60, help="for each training, on the cores that there are")
    parser.add_argument("--architectures", nargs="+", default=["unet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--small", action="store_true", help="20 s each: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with camvid in it")
    minutes = 0.3 if arguments.small else arguments.minutes
    seeds = arguments.seeds[:1] if arguments.small else arguments.seeds
    rows = [
        measured(data / "camvid", arguments.work / f"{architecture}-{minutes:g}-{seed}", architecture, minutes, seed)
        for architecture in arguments.architectures
        for seed in seeds
    ]
    headline = dict.fromkeys(
        ["miou_cpu60", "miou_train", "miou_trainval", "miou_trainval_tta", "ece", "uncertainty_auroc"]
    )
    best = max((mean(rows, "mIoU", name), name) for name in arguments.architectures)[1]
    found = {key: mean(rows, key, best) for key in ("ece", "uncertainty_auroc")}
    if minutes == 60:
        found["miou_cpu60"] = mean(rows, "mIoU", best)
    record("camvid", rows, headline | found, __doc__ or "", small=arguments.small)


def measured(images: Path, out: Path, architecture: str, minutes: float, seed: int) -> dict[str, Any]:
    """Train, segment and evaluate; a row of the table."""
    done = out / "measured.json"
    if done.exists():
        return json.loads(done.read_text())
    given = ["--images", images, "--out", out, "--minutes", minutes]
    given += [] if architecture == "unet" else ["--architecture", architecture]
    given += [] if seed == 0 else ["--train.seed", seed]
    trained = job("train_image_segmenter", *given)
    sink = out.with_name(out.name + "-sink")
    table = job("segment_images", "--source", images / "images" / "test", "--model", out, "--sink", sink)
    evaluated = job("evaluate", "--model", out, "--data", images, "--split", "test")
    found = from_table(str(sink), images)
    assert abs(found["miou"] - evaluated["metrics"]["miou"]) < 1e-6, (found["miou"], evaluated["metrics"])
    row = {
        "architecture": architecture,
        "seed": seed,
        "minutes": round(trained["training_seconds"] / 60, 1),
        "parameters": trained["parameters"],
        "validation mIoU": trained["metrics"]["miou"],
        "mIoU": found["miou"],
        "pixels on validation": trained.get("baseline", {}).get("pixels_miou"),
        **certainty(out, images),
        "images/s": round(found["rows"] / table["seconds"], 1),
        "IoU": {detail["class"]: detail["IoU"] for detail in evaluated["details"]},
    }
    done.write_text(json.dumps(row))
    return row


def certainty(out: Path, images: Path) -> dict[str, float]:
    """The expected calibration error of the test pixels, and how well their entropy finds the wrong ones (AUROC)."""
    found = package.load(str(out))
    task, model = config.from_dict(ImageSegmentation, found.task), found.model()
    logits = with_views(model, task.tta)
    confidences, entropies, rights = [], [], []
    for line in (images / "test.txt").read_text().splitlines():
        image, label = (images / name for name in line.split())
        fitted = decode_fitted(image.read_bytes(), task.max_pixels, task.height_px, task.width_px)
        truth = decode_label(label.read_bytes(), fitted.height, fitted.width)[::_STRIDE_PX, ::_STRIDE_PX]
        seen = torch.from_numpy(fitted.pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            whole = logits(seen)[:, :, : fitted.valid_height, : fitted.valid_width] / task.temperature
            whole = torch.nn.functional.interpolate(whole, (fitted.height, fitted.width), mode="bilinear")
            log_probability = whole[0, :, ::_STRIDE_PX, ::_STRIDE_PX].log_softmax(0)
        probability = log_probability.exp()
        known = torch.from_numpy(truth.astype(np.int64)) != _VOID
        top, guess = probability.max(0)
        confidences.append(top[known])
        rights.append((guess == torch.from_numpy(truth.astype(np.int64)))[known])
        entropies.append(-(probability * log_probability).sum(0)[known])
    confidence, right = torch.cat(confidences).numpy(), torch.cat(rights).numpy()
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(confidence[bins == index].mean() - right[bins == index].mean()) * (bins == index).mean()
        for index in range(_BINS)
        if (bins == index).any()
    ]
    return {"ece": float(sum(gaps)), "uncertainty_auroc": float(roc_auc_score(~right, torch.cat(entropies).numpy()))}


def mean(rows: list[dict[str, Any]], key: str, architecture: str) -> float:
    """The mean over the seeds of an architecture."""
    return statistics.fmean(row[key] for row in rows if row["architecture"] == architecture)


def job(name: str, *arguments: Any) -> dict[str, Any]:
    """Run a job as a user would; its summary."""
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def from_table(sink: str, images: Path) -> dict[str, Any]:
    """mIoU from the masks in the table, against the label files."""
    classes = len(json.loads((images / "classes.json").read_text())["classes"])
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    rows = pa.table(open_delta(sink).to_pyarrow_table(columns=["uri", "height", "width", "mask"])).to_pylist()
    for row in rows:
        label = images / "labels" / "test" / Path(row["uri"]).with_suffix(".png").name
        truth = decode_label(label.read_bytes(), row["height"], row["width"]).astype(np.int64)
        mask = decode_mask(row["mask"]["bytes"]).astype(np.int64)
        confusion += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(mask), classes)
    return {"rows": len(rows), "miou": miou(confusion), "iou": class_iou(confusion).tolist()}


if __name__ == "__main__":
    main()
