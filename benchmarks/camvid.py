"""CamVid, the whole way: autoencoder on the training images, segmenter from its encoder, table, mIoU from the table.

Official split; the best weights are chosen on val, and test is looked at once, at the end. mIoU is the mean over 11
classes of the IoU from one confusion matrix over all 233 test images at 480x360, void left out. It is computed from the
mask column of the table and must equal what ``evaluate`` says. Resumable: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.record import data_folder, record
from pipeline.images.inputs import decode_label
from pipeline.images.metrics import class_iou, confusion_matrix, miou
from pipeline.images.outputs import decode_mask
from pipeline.table.readers import open_delta

AUTOENCODER = ["--model.blocks", "[1,1,1,2]", "--train.epochs", "20", "--train.evaluate_every_epochs", "2"]
# Square root of median frequency over frequency of each class, among the pixels of the training labels.
WEIGHTS = "[0.52,0.44,2.14,0.38,1.0,0.68,1.96,2.0,0.87,2.65,3.92]"
SEGMENTER = ["--train.epochs", "60", "--train.learning_rate", "0.002", "--train.evaluate_every_epochs", "5"]
SEGMENTER += ["--augmentation.scale", "[0.8,2.0]", "--class_weights", WEIGHTS]
BOTH = ["--train.batch_rows", "8", "--train.precision", "bfloat16"]
SMALL = ["--train.epochs", "1", "--train.evaluate_every_epochs", "1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/camvid"), help="where packages and table go")
    parser.add_argument("--small", action="store_true", help="one epoch each: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with camvid in it")
    images, work = data / "camvid", arguments.work / "small" if arguments.small else arguments.work
    small = SMALL if arguments.small else []
    autoencoder, segmenter, sink = work / "ae", work / "seg", work / "sink"
    trained = {
        "autoencoder": job("train_autoencoder", "--images", images, "--out", autoencoder, *AUTOENCODER, *BOTH, *small),
        "segmenter": job(
            "train_image_segmenter",
            *("--images", images, "--out", segmenter, "--init", autoencoder),
            *(*SEGMENTER, *BOTH, *small),
        ),
    }
    table = job("segment_images", "--source", images / "images" / "test", "--model", segmenter, "--sink", sink)
    evaluated = job("evaluate", "--model", segmenter, "--data", images, "--split", "test")
    found = from_table(str(sink), images)
    assert abs(found["miou"] - evaluated["metrics"]["miou"]) < 1e-6, (found["miou"], evaluated["metrics"])
    rows = [{"class": detail["class"], "IoU": detail["IoU"]} for detail in evaluated["details"]]
    rows += [
        {"what": "rows in the table", "value": found["rows"]},
        {"what": "mIoU from the table", "value": found["miou"]},
        {"what": "mIoU by evaluate", "value": evaluated["metrics"]["miou"]},
        {"what": "global accuracy", "value": evaluated["metrics"]["global_accuracy"]},
        {"what": "validation mIoU at 240x180", "value": trained["segmenter"]["metrics"]["miou"]},
        {
            "what": "autoencoder, bits a dimension",
            "value": trained["autoencoder"]["metrics"]["bits_per_dimension"],
        },
        {"what": "segmentation seconds", "value": table["seconds"]},
    ]
    for name, summary in trained.items():
        rows += [
            {"what": f"{name}: training seconds since it last started", "value": summary["training_seconds"]},
            {"what": f"{name}: parameters", "value": summary["parameters"]},
        ]
    headline = dict.fromkeys(
        ["miou_cpu60", "miou_train", "miou_trainval", "miou_trainval_tta", "ece", "uncertainty_auroc"]
    )
    record(
        "camvid", rows, headline | {"miou_cpu60": found["miou"]}, f"seed 0, one run. {__doc__}", small=arguments.small
    )


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
