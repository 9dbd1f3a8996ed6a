"""Regions without labels as a user finds them: a training on drawn scenes, a table of masks, layers as pictures."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.examples.sprites import sprite_scene
from pipeline.table.readers import open_delta
from testing.jobs import call_job

pytestmark = pytest.mark.ray


def test_regions_from_training_to_a_table_and_to_layers(cluster: None, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(10):
        Image.fromarray(sprite_scene(index)[0]).save(images / f"{index}.png")
    small = ("--model.width", "8", "--model.slot_width", "16", "--model.latent_channels", "4", "--model.slots", "3")
    code, summary, said = call_job(
        "train_image_regions", "--images", str(images), "--out", str(tmp_path / "regions"), *small,
        "--train.epochs", "2", "--train.batch_rows", "4", "--validation_fraction", "0.3"
    )  # fmt: skip
    assert code == 0, said[-2000:]
    assert summary["kind"] == "image_regions"
    assert {"bits_per_dimension", "kl", "one_layer"} <= set(summary["metrics"])
    assert "Validation samples" in Path(summary["report"]).read_text()
    model = ("--model", str(tmp_path / "regions"))

    code, summary, said = call_job(
        "segment_images", "--source", str(images), *model, "--sink", str(tmp_path / "sink")
    )  # fmt: skip
    assert (code, summary["done"], summary["failed"]) == (0, 10, 0), said[-2000:]
    assert Path(summary["report"]).exists()
    row = open_delta(str(tmp_path / "sink")).to_pyarrow_table().to_pylist()[0]
    assert sum(row["class_pixels"]) == 32 * 32
    assert len(row["class_pixels"]) == 3
    assert row["novelty_raw"] is not None
    assert "at least 100" in summary["columns"]["novelty"]
    assert call_job("verify", "--sink", str(tmp_path / "sink"))[0] == 0
    code, _, said = call_job("export", "--sink", str(tmp_path / "sink"), "--to", "png", "--out", str(tmp_path / "out"))
    assert code == 0, said[-2000:]

    code, refused, _ = call_job("evaluate", *model, "--data", str(images), "--split", "test")
    assert code == 2
    assert "of a kind that cannot be evaluated: image_regions" in refused["error"]
    given = (*model, "--out", str(tmp_path / "samples"), "--count", "5")
    code, summary, said = call_job("sample", *given, "--images", str(images))
    assert code == 0, said[-2000:]
    assert [Path(name).name for name in summary["pictures"]] == ["samples.png", "layers.png"]
    assert pq.read_table(summary["samples"]).num_rows == 5
    code, refused, _ = call_job("sample", *given, "--sampler", "mixture", "--images", str(images))
    assert code == 2
    assert "has the sampler prior" in refused["error"]
