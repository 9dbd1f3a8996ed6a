"""Makes the golden files of this folder anew, with the version of the project that is checked out in a folder:

    cd CHECKOUT && .venv/bin/python PATH/TO/tests/golden/make.py PATH/TO/tests/golden/VERSION

The scenes lie at a fixed place while they are read, because a table and a training name their inputs by path and time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.examples.prose import reference_documents, write_jsonl
from pipeline.examples.scenes import write_scenes

PLACE = Path("/tmp/parquetry-golden")
WRITTEN_S = 1_700_000_000
BOX = ["--height_px", "24", "--width_px", "32"]
TRAIN = ["--train.batch_rows", "4", "--train.threads", "1", "--cluster.cpus", "1", "--cluster.gpus", "0"]


def job(name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"jobs.{name}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(name: str, *arguments: str) -> dict:
    process = job(name, *arguments)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return json.loads(out.strip().splitlines()[-1])


def segmenter(out: str, epochs: int) -> list[str]:
    start = ["--init", str(PLACE / "autoencoder"), "--novelty", str(PLACE / "autoencoder")]
    places = ["--images", str(PLACE / "scenes"), "--out", str(PLACE / out)]
    return [
        *places,
        *start,
        *BOX,
        *TRAIN,
        "--recipe",
        "none",
        "--baseline",
        "none",
        "--train.epochs",
        str(epochs),
        "--train.checkpoint_s",
        "0",
    ]


def set_times(folder: Path) -> None:
    """The times that tags are made of."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (WRITTEN_S, WRITTEN_S))


def main() -> None:
    target = Path(sys.argv[1])
    shutil.rmtree(PLACE, ignore_errors=True)
    write_scenes(str(PLACE / "scenes"), {"train": 8, "val": 3}, height=24, width=32)
    set_times(PLACE / "scenes")
    model = ["--model.widths", "[8,8]", "--model.blocks", "[0,0]", "--model.decoder_blocks", "[0,0]"]
    box = ["--task.height_px", "24", "--task.width_px", "32", "--model.latent_channels", "2"]
    places = ["--images", str(PLACE / "scenes"), "--out", str(PLACE / "autoencoder")]
    run("train_autoencoder", *places, *model, *box, *TRAIN, "--train.epochs", "2")
    run("train_image_segmenter", *segmenter("whole", 60))
    stopped = job("train_image_segmenter", *segmenter("stopped", 60))
    while not list((PLACE / "stopped" / "checkpoints").glob("*.safetensors")):
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    assert stopped.returncode == 143, stopped.returncode
    segment = ["--source", str(PLACE / "scenes" / "images"), "--model", str(PLACE / "whole"), "--cluster.cpus", "1"]
    run("segment_images", *segment, "--sink", str(PLACE / "sink-whole"))
    run("segment_images", *segment, "--sink", str(PLACE / "sink"), "--limit", "5")
    write_jsonl(str(PLACE / "prose.jsonl"), reference_documents()[:8])
    small = ["--task.buckets", "256", "--model.buckets", "256", "--model.vector_size", "8", "--model.width", "4"]
    small += ["--model.hidden", "8", "--model.recurrent_members", "1", "--model.attention_members", "1"]
    places = ["--documents", str(PLACE / "prose.jsonl"), "--out", str(PLACE / "tagger")]
    run("train_text_segmenter", *places, *small, *TRAIN, "--train.epochs", "1")
    shutil.rmtree(target, ignore_errors=True)
    for name in ("autoencoder", "whole", "stopped", "tagger"):
        for old in sorted((PLACE / name / "checkpoints").glob("*.safetensors"))[:-1]:
            old.unlink()
        shutil.copytree(PLACE / name, target / name, ignore=shutil.ignore_patterns("ray", "tensorboard", "evaluations"))
    for name in ("autoencoder", "whole", "tagger"):
        shutil.rmtree(target / name / "checkpoints", ignore_errors=True)
        shutil.rmtree(target / name / "prepared", ignore_errors=True)
    for name in ("scenes", "sink", "sink-whole"):
        shutil.copytree(PLACE / name, target / name, ignore=shutil.ignore_patterns("report.html", "lease"))
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
