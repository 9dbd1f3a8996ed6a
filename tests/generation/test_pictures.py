"""Pictures of an autoencoder: where they start, where they end, what moves; and the file of samples."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import models
from pipeline.errors import RequestError
from pipeline.generation import pictures
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.rows import FailedInput, by_code
from pipeline.source.labelled import all_inputs
from tests.models.autoencoders.test_family import NETWORKS, SIZE

TASK = ImageReconstruction(height_px=SIZE[0], width_px=SIZE[1])


def write_images(folder: Path, count: int) -> str:
    folder.mkdir()
    random_numbers = np.random.default_rng(0)
    for number in range(count):
        pixels = random_numbers.integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("gallery") / "images"
    write_images(folder, 19)
    (folder / "03.png").write_bytes(b"no picture")
    return all_inputs(str(folder), TASK.inputs)


def network(name: str) -> Any:
    torch.manual_seed(1)
    model_name, settings = NETWORKS[name]
    return models.build(model_name, json.loads(json.dumps(settings))).eval()


def study(name: str, rows: pa.Table) -> tuple[Any, pictures.Studied]:
    model = network(name)
    return model, pictures.study(TASK, model, rows, shown=5, seed=0, failed=[])


@pytest.mark.parametrize("name", ["flat", "dense", "deterministic", "top_k", "ladder"])
def test_pictures_start_and_end_at_reconstructions(name: str, rows: pa.Table) -> None:
    model, studied = study(name, rows)
    again = model.reconstruct(studied.images)
    shown = pictures.reconstructions(model, studied, columns=2)
    assert len(shown) == 8  # of five images in rows of two, the fifth has no row
    torch.testing.assert_close(shown[[0, 1, 4, 5]], studied.images[:4])
    torch.testing.assert_close(shown[[2, 3, 6, 7]], again[:4], atol=1e-4, rtol=0)
    for path in ("spherical", "linear"):
        between = pictures.interpolations(model, studied, steps=3, path=path)
        assert len(between) == 2 * 5
        torch.testing.assert_close(between[[0, 4, 5, 9]], studied.images[:4])
        torch.testing.assert_close(between[[1, 3, 6, 8]], again[:4], atol=1e-4, rtol=0)
    moved = pictures.traversals(model, studied, image=1, channels=studied.channels[:2], steps=3, reach=2.0)
    torch.testing.assert_close(moved[[1, 4]], again[[1, 1]], atol=1e-4, rtol=0)
    assert not torch.allclose(moved[0], moved[2], atol=1e-4)


def test_channels_are_sorted_by_what_they_cost(rows: pa.Table) -> None:
    model, studied = study("ladder", rows)
    with torch.inference_mode():
        images = torch.cat([image for _, image in pictures.given(TASK, rows, 0, [])])
        nats = [level.mean(0) for level in model.infer(images, None).kl_of_channels()]
    assert [channel.strength for channel in studied.channels] == pytest.approx(
        torch.cat(nats).sort(descending=True).values.tolist(), rel=1e-4
    )
    best = studied.channels[0]
    assert float(nats[best.level][best.channel]) == pytest.approx(best.strength, rel=1e-4)


def test_channels_without_a_posterior_are_sorted_by_variance(rows: pa.Table) -> None:
    _, studied = study("deterministic", rows)
    strengths = [channel.strength for channel in studied.channels]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > 0


def test_images_that_fail_are_counted_and_left_out(rows: pa.Table) -> None:
    failed: list[FailedInput] = []
    found = pictures.latents_of_inputs(TASK, network("ladder"), rows, 0, failed)
    assert [tuple(level.shape) for level in found] == [(18, 4, 4, 5), (18, 2, 8, 10)]
    assert by_code(failed) == {"not_an_image": 1}
    with pytest.raises(RequestError, match="none of the 1 images could be used"):
        pictures.latents_of_inputs(TASK, network("ladder"), rows.slice(3, 1), 0, [])


def test_spherical_interpolation_by_hand() -> None:
    one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    weights = torch.tensor([0.0, 0.5, 1.0])
    found = pictures.interpolate(one, other, weights, "spherical")
    torch.testing.assert_close(found, torch.tensor([[3.0, 0.0], [2**0.5, 2**0.5], [0.0, 1.0]]))
    straight = pictures.interpolate(one, other, weights, "linear")
    torch.testing.assert_close(straight, torch.tensor([[3.0, 0.0], [1.5, 0.5], [0.0, 1.0]]))
    for end in (2 * one, -one, 0 * one):
        along = pictures.interpolate(one, end, weights, "spherical")
        torch.testing.assert_close(along, pictures.interpolate(one, end, weights, "linear"))


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_pictures_for_hugging_face(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    images = torch.rand(5, channels, *SIZE)
    where = str(tmp_path / "samples.parquet")
    kept = pictures.write_samples(where, images.split(2), seed=3, sampler="mixture", model="digest", keep=4)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(kept, pixels[:4])
    rows = pq.read_table(where).to_pylist()
    assert [row["index"] for row in rows] == list(range(5))
    assert {(row["seed"], row["sampler"], row["model"]) for row in rows} == {(3, "mixture", "digest")}
    with Image.open(BytesIO(rows[4]["image"]["bytes"])) as picture:
        np.testing.assert_array_equal(np.asarray(picture).reshape(pixels[4].shape), pixels[4])
    loaded = datasets.load_dataset("parquet", data_files=[where], split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    np.testing.assert_array_equal(np.asarray(loaded[2]["image"]).reshape(pixels[2].shape), pixels[2])
