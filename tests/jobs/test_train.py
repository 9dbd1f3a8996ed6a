"""Training as a user runs it: an autoencoder, a segmenter from it, signals, wrong requests, one CPU."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from pipeline import package, storage
from pipeline.table.readers import open_delta
from testing.jobs import call_job
from testing.processes import start_job
from testing.runs import write_package
from tests.jobs.conftest import Demonstration

pytestmark = pytest.mark.ray
ONE_CPU = ("--cluster.cpus", "1", "--cluster.gpus", "0")


@pytest.fixture(scope="module")
def place(demonstration: Demonstration) -> Path:
    """Scenes, an autoencoder trained on them, and a segmenter that started from it and carries it."""
    return demonstration.out


def segmenter(folder: Path, out: str, epochs: int = 3) -> list[str]:
    box = ["--height_px", "90", "--width_px", "120", "--init", str(folder / "autoencoder")]
    box += ["--novelty", str(folder / "autoencoder")]
    places = ["--images", str(folder / "scenes"), "--out", str(folder / out)]
    plain = ["--recipe", "none", "--baseline", "none"]
    return [
        *places,
        *box,
        *plain,
        "--train.epochs",
        str(epochs),
        "--train.batch_rows",
        "4",
        "--train.checkpoint_s",
        "0",
    ]


def test_a_package_tells_where_it_comes_from(place: Path) -> None:
    card = (place / "segmenter" / "card.md").read_text()
    for text in (
        "image_segmenter: unet",
        f"init: {place}",
        "command",
        "validation miou",
        "torch: 2.",
        str(place / "scenes"),
    ):
        assert text in card
    assert package.load(str(place / "segmenter")).model_config["widths"] == [16, 32, 64]
    assert not list((place / "segmenter").glob("*.pkl"))
    assert not list((place / "segmenter").glob("*.pt"))


def test_every_row_tells_how_unlike_the_training_data_its_image_is(place: Path) -> None:
    source = place / "strange"
    source.mkdir()
    for file in sorted((place / "scenes" / "images" / "test").iterdir()):
        shutil.copy(file, source)
    noise = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    Image.fromarray(noise).save(source / "noise.png")
    (source / "broken.png").write_bytes(b"\x89PNG")
    sink = place / "strange-sink"
    code, summary, err = call_job(
        "segment_images", "--source", str(source), "--model", str(place / "segmenter"), "--sink", str(sink)
    )
    assert code == 0, err
    rows = {
        row["uri"].rsplit("/", 1)[-1]: row for row in pa.table(open_delta(str(sink)).to_pyarrow_table()).to_pylist()
    }
    broken, strange = rows.pop("broken.png"), rows.pop("noise.png")
    assert broken["novelty"] is broken["novelty_raw"] is broken["embedding"] is None
    # That noise is more novel than scenes shows after more training: see the whole demonstration.
    assert all(row["novelty"] is None and len(row["embedding"]) == 8 for row in (strange, *rows.values()))
    assert "at least 100 are needed" in summary["columns"]["novelty"]
    assert len({row["novelty_raw"] for row in (strange, *rows.values())}) == 1 + len(rows)
    task = package.load(str(place / "autoencoder")).task
    assert len(task["reference"]["quantiles"]) > 2
    assert package.load(str(place / "segmenter")).task["autoencoder"] == task


def test_a_ladder_of_binary_gray_images_from_the_command_line(place: Path) -> None:
    out = place / "ladder"
    ladder = ["--ladder.channels", "1", "--ladder.widths", "[8,16]", "--ladder.latent_channels", "[2,1]"]
    ladder += ["--ladder.blocks", "[0,1]", "--ladder.decoder_blocks", "[0,1]", "--ladder.likelihood", "bernoulli"]
    task = ["--task.height_px", "28", "--task.width_px", "28", "--task.channels", "1", "--task.binarise"]
    task += ["--task.objective.terms", '["kl","mmd"]', "--task.objective.kl.warmup", "linear"]
    places = ["--images", str(place / "scenes"), "--out", str(out), "--architecture", "ladder_vae"]
    epochs = ["--train.epochs", "1", "--train.batch_rows", "4"]
    code, summary, err = call_job("train_autoencoder", *places, *ladder, *task, *epochs)
    assert code == 0, err
    assert 0 < summary["metrics"]["bits_per_dimension"] < 2
    found = package.load(str(out), "autoencoder")
    assert found.model_name == "ladder_vae"
    assert found.task["objective"]["terms"] == ["kl", "mmd"]
    code, summary, err = call_job("evaluate", "--model", str(out), "--data", str(place / "scenes"), "--split", "test")
    assert code == 0, err
    code, summary, _ = call_job(
        "train_autoencoder", *places, *ladder, *task[:-4], "--task.objective.terms", '["sparsity"]'
    )
    assert code == 2
    assert (
        "'sparsity', which needs a code of 'hard_concrete', but LadderVAEConfig.code is 'gaussian'" in summary["error"]
    )


def test_evaluate_writes_metrics_and_a_page(place: Path) -> None:
    code, summary, err = call_job(
        "evaluate", "--model", str(place / "segmenter"), "--data", str(place / "scenes"), "--split", "test"
    )
    assert code == 0, err
    assert summary["inputs"] == 6
    assert set(summary["metrics"]) == {"miou", "global_accuracy"}
    page = Path(summary["report"])
    assert page.read_text().count("data:image/") == 24
    scores = pq.read_table(page.parent / "scores.parquet")
    assert scores.num_rows == 6
    address = ray.get_runtime_context().gcs_address
    places = ["--model", str(place / "segmenter"), "--data", str(place / "scenes"), "--out", str(place / "on-cluster")]
    code, again, err = call_job("evaluate", *places, "--split", "test", "--cluster.address", address)
    assert code == 0, err
    assert "on the CPUs of the cluster" in err
    assert again["metrics"] == summary["metrics"]
    inexact = ["confidence", "uncertainty"]
    found = pq.read_table(place / "on-cluster/scores.parquet")
    assert found.drop_columns(inexact) == scores.drop_columns(inexact)


def test_a_stopped_training_leaves_a_checkpoint_and_its_exit_code(place: Path) -> None:
    """That the same command goes on from there is tested with a training that an earlier version left."""
    process = start_job("train_image_segmenter", *segmenter(place, "stopped", epochs=300), *ONE_CPU)
    deadline = time.monotonic() + 120
    while not storage.names(str(place / "stopped" / "checkpoints")):
        assert time.monotonic() < deadline, "no checkpoint"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out.strip().splitlines()[-1])["status"]) == (143, "stopped"), err
    assert not (place / "stopped" / "config.json").exists()
    summary = json.loads((place / "stopped" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("stopped", 143)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--images": "nowhere"}, "no such folder"),
        ({"--init": "tagger"}, "must be of kind 'autoencoder' or 'image_segmenter', got 'text_segmenter'"),
        ({"--novelty": "segmenter"}, "must be of kind 'autoencoder', got 'image_segmenter'"),
        ({"--init": "segmenter", "--init_mode": "frozen"}, "init_mode frozen leaves nothing to learn"),
        ({"--init": "segmenter", "--architecture": "fcn"}, "architecture must be 'unet', as in the package of init"),
        ({"--init": "segmenter", "--width": "8"}, "UNetConfig.widths must be the package's (16, 32, 64), got (8, 16, "),
        ({"--init_mode": "halfway"}, "--init-mode must be one of full, slow, frozen, got 'halfway'"),
        ({"--width": "16", "--widths": "[16,32]"}, "TrainImageSegmenter.width must not be given together with widths"),
        ({"--width": "12"}, "width must be a positive multiple of 8, got 12"),
        ({"--architecture": "light"}, "LightConfig.widths must have at least 4 resolutions, got (16, 32, 64)"),
        (
            {"--train.workers": "2:9"},
            "DistributedTrainConfig.workers must be a number or MIN:MAX, at least 1 and at most batch_rows, got '2:9'",
        ),
        ({"--widths": "[8,24]"}, "UNetConfig.widths must be the autoencoder's (16, 32, 64), got (8, 24)"),
        ({"--height_px": "0"}, "ImageSegmentation.height_px must be at least 1, got 0"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(place: Path, changes: dict, message: str) -> None:
    given = dict(zip(*[iter(segmenter(place, "unwritten"))] * 2, strict=True))
    for name, value in changes.items():
        given[name] = str(place / value) if name in ("--images", "--init", "--novelty") else value
    code, summary, _ = call_job("train_image_segmenter", *(item for pair in given.items() for item in pair))
    assert (code, message in summary["error"]) == (2, True), summary
    assert not (place / "unwritten").exists()


def test_a_segmenter_of_other_classes_gives_all_but_the_head(place: Path) -> None:
    shutil.copytree(place / "scenes", place / "renamed")
    file = place / "renamed" / "classes.json"
    described = json.loads(file.read_text())
    described["classes"][0] += " of before"
    file.write_text(json.dumps(described))
    arguments = ["--images", str(place / "renamed"), "--out", str(place / "other"), "--height_px", "90"]
    arguments += ["--width_px", "120", "--init", str(place / "segmenter"), "--init_mode", "frozen"]
    code, _, said = call_job("train_image_segmenter", *arguments, "--train.epochs", "1")
    assert code == 0, said
    assert "the network's head begins anew, since the package of init has other classes" in said
    before, after = (package.load(str(place / name)).weights() for name in ("segmenter", "other"))
    own = {name: value for name, value in before.items() if not name.startswith("autoencoder.")}
    assert after.keys() == own.keys()
    assert {name for name in own if not torch.equal(own[name], after[name])} == {"head.weight", "head.bias"}


def test_a_recipe_chooses_says_why_and_is_kept(place: Path) -> None:
    out = place / "by-recipe"
    given = ["--images", str(place / "scenes"), "--out", str(out), "--minutes", "0.02", "--objective", "lovasz"]
    given += ["--train.epochs", "2", *ONE_CPU]
    code, summary, err = call_job("train_image_segmenter", *given)
    assert code == 0, err
    assert "input: " in err
    assert "network: width 16, of 16 and 32" in err
    assert summary["baseline"].keys() == {"pixels_miou", "majority_miou"}
    assert "of a gradient boosting of single pixels" in err
    recipe = json.loads((out / "recipe.json").read_text())
    settings, described = recipe["settings"], json.loads((out / "training.json").read_text())
    card = described["card"]["training"]
    assert card["epochs"] == 2, "what is given is kept"
    assert card["precision"] == settings["precision"]
    task = package.load(str(out)).task
    assert (task["objective"], task["height_px"]) == ("lovasz", settings["height_px"])
    assert task["class_weights"] == settings["class_weights"]
    assert task["usual_scale"] > 0
    assert task["temperature"] != 1.0
    code, _, err = call_job("train_image_segmenter", *given)
    assert (code, "is trained already" in err) == (0, True), err
    code, summary, _ = call_job("train_image_segmenter", *given, "--objective", "dice")
    assert (code, "objective was" in summary["error"] or "another training" in summary["error"]) == (2, True), summary
    assert json.loads((out / "recipe.json").read_text()) == recipe


def test_pixels_are_a_package_like_the_others(place: Path) -> None:
    out, sink = place / "pixels", place / "pixels-sink"
    given = ["--images", str(place / "scenes"), "--out", str(out), "--architecture", "pixels", *ONE_CPU]
    code, summary, err = call_job("train_image_segmenter", *given)
    assert code == 0, err
    assert summary["metrics"]["miou"] > 0.2
    assert summary["parameters"] > 1000
    assert "baseline" not in summary
    assert Path(summary["report"]).exists()
    assert package.load(str(out)).task["temperature"] != 1.0
    code, _, err = call_job("train_image_segmenter", *given)
    assert (code, "is trained already" in err) == (0, True), err
    source = place / "few"
    source.mkdir()
    for file in sorted((place / "scenes" / "images" / "test").iterdir())[:2]:
        shutil.copy(file, source)
    code, summary, err = call_job(
        "segment_images", "--source", str(source), "--model", str(out), "--sink", str(sink), *ONE_CPU
    )
    assert (code, summary["done"]) == (0, 2), err
    code, summary, _ = call_job("train_image_segmenter", *given, "--init", str(place / "autoencoder"))
    assert (code, "architecture pixels is none" in summary["error"]) == (2, True), summary


def test_a_recipe_for_a_refused_request_leaves_nothing(place: Path) -> None:
    given = ["--images", str(place / "scenes"), "--out", str(place / "refused"), "--train.gpu", "true", *ONE_CPU]
    code, summary, _ = call_job("train_image_segmenter", *given)
    assert (code, "needs a GPU" in summary["error"]) == (2, True), summary
    assert not (place / "refused").exists()


def test_a_foreign_package_is_not_overwritten(place: Path) -> None:
    write_package(place / "foreign", 0)
    code, summary, _ = call_job("train_image_segmenter", *segmenter(place, "foreign"))
    assert (code, "was not trained there" in summary["error"]) == (2, True)
