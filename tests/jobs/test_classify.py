"""Classification as a user runs it: folders of classes, a package, a table of labels, and what refuses such a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import package
from pipeline.table.readers import open_delta
from testing.jobs import call_job

pytestmark = pytest.mark.ray
SMALL = ("--views", "2", "--fit.steps", "300", "--fit.classifier_hidden", "[16]", "--fit.dropout", "0")


def write(folder: Path, count: int, seed: int) -> None:
    """Dark and light pictures, in a folder for each."""
    random = np.random.default_rng(seed)
    for name, low in (("dark", 10), ("light", 180)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random.integers(low, low + 40, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{index}.png")


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, and a classifier on its latents that has seen labels of eight pictures."""
    folder = tmp_path_factory.mktemp("classes")
    write(folder / "images", 6, 0)
    write(folder / "more", 4, 1)
    (folder / "images" / "test.txt").write_text("dark/0-1.png\nlight/0-1.png\n")
    box = ("--task.height_px", "16", "--task.width_px", "16")
    stages = ("--model.widths", "[8,16]", "--model.blocks", "[0,0]", "--model.decoder_blocks", "[0,0]")
    code, _, said = call_job(
        "train_autoencoder", "--images", str(folder / "more"), "--out", str(folder / "autoencoder"), *box, *stages,
        "--model.latent_channels", "4", "--train.epochs", "4", "--train.batch_rows", "2"
    )  # fmt: skip
    assert code == 0, said[-2000:]
    code, summary, said = call_job(
        "train_classifier", "--images", str(folder / "images"), "--model", str(folder / "autoencoder"),
        "--unlabelled", str(folder / "more"), "--out", str(folder / "classifier"),
        "--validation_fraction", "0.3", *SMALL
    )  # fmt: skip
    assert code == 0, said[-2000:]
    assert summary["metrics"]["accuracy"] == 1.0
    assert summary["train_samples"] == 8 + 8
    assert summary["validation_samples"] == 4
    assert Path(summary["report"]).exists()
    return folder


def test_a_table_of_labels(place: Path) -> None:
    (place / "more" / "broken.png").write_bytes(b"no picture")
    given = ("--source", str(place / "more"), "--model", str(place / "classifier"), "--sink", str(place / "sink"))
    code, summary, said = call_job("classify", *given, "--max-error-rate", "1")
    assert code == 0, said[-2000:]
    assert (summary["done"], summary["failed"]) == (8, 1)
    assert "A sample of the labels" in Path(summary["report"]).read_text()
    rows = open_delta(str(place / "sink")).to_pyarrow_table().to_pylist()
    found = {row["uri"].rsplit("/", 2)[1]: row for row in rows if row["error"] is None}
    assert {name: row["label"] for name, row in found.items()} == {"dark": "dark", "light": "light"}
    assert len(found["dark"]["scores"]) == 2
    assert len(found["dark"]["embedding"]) == 4
    assert found["dark"]["novelty_raw"] is not None
    assert "at least 100" in summary["columns"]["novelty"]
    assert call_job("classify", *given, "--max-error-rate", "1")[1]["skipped"] == 9
    code, audit, said = call_job("verify", "--sink", str(place / "sink"))
    assert (code, audit["problems"]) == (0, {}), said
    for command, more in (("export", ("--to", "png")), ("label_queue", ())):
        code, refused, _ = call_job(command, "--sink", str(place / "sink"), "--out", str(place / command), *more)
        assert code == 2, command
        assert "sink" in refused["error"], refused


def test_a_package_is_evaluated_on_a_split(place: Path) -> None:
    code, summary, said = call_job(
        "evaluate", "--model", str(place / "classifier"), "--data", str(place / "images"), "--split", "test"
    )
    assert code == 0, said[-2000:]
    assert summary["metrics"]["accuracy"] == 1.0
    assert [row["images"] for row in summary["details"]] == [1, 1]
    assert package.load(str(place / "classifier")).kind == "image_classifier"
    for lines, rule in (
        ("dark/1-1.png\ndark/1-2.png\n", "at least 2 classes are needed, got dark"),
        ("", "lists no images"),
    ):
        (place / "more" / "train.txt").write_text(lines)
        given = ("--images", str(place / "more"), "--model", str(place / "autoencoder"), "--out", str(place / "none"))
        code, refused, _ = call_job("train_classifier", *given)
        assert (code, rule in refused["error"]) == (2, True), refused
    assert not (place / "none").exists()
    code, refused, _ = call_job(
        "segment_images", "--source", str(place / "more"), "--model", str(place / "classifier"), "--sink", "x"
    )
    assert code == 2
    assert "must be of kind 'image_segmenter' or 'image_regions'" in refused["error"]
