"""Images that are cut into tiles: rows, training samples, test-time augmentation, and the scale of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.errors import RequestError
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.inputs import NO_CLASS, PADDING
from pipeline.images.labels import described_classes
from pipeline.images.outputs import decode_mask
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.interface import Segmenter
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA
from testing.broken_images import encoded

CPU = torch.device("cpu")
CLASSES = {"classes": ["dark", "bright"], "palette": [[0, 0, 0], [9, 9, 9]], "ignore_index": 255}


class Threshold(Segmenter):
    """Bright pixels are class 1."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = image.mean(1) - 0.5
        return 8 * torch.stack((-bright, bright), 1)


class LeftIsOne(torch.nn.Module):
    """The left half of whatever it sees is class 1, a little."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        left = torch.linspace(1, -1, image.shape[3]).expand(image.shape[0], image.shape[2], -1)
        return torch.stack((0 * left, left + 3 * (image.mean(1) - 0.5)), 1)


def task(**settings: Any) -> ImageSegmentation:
    given = {"height_px": 32, "width_px": 48, "resize": "tile"} | settings
    return ImageSegmentation(**described_classes(CLASSES), **given)


def blocks(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).choice([20, 230], (height // 10 + 1, width // 10 + 1))
    gray = coarse.repeat(10, 0).repeat(10, 1)[:height, :width].astype(np.uint8)
    return np.repeat(gray[..., None], 3, 2)


def rows(pictures: list[np.ndarray], labels: list[np.ndarray] | None = None) -> pa.Table:
    data = [encoded(one, "PNG") for one in pictures]
    found = [None] * len(data) if labels is None else [encoded(label, "PNG") for label in labels]
    return pa.table({"data": data, "format": ["object"] * len(data), "label": found}, INPUT_SCHEMA)


def segmented(settings: ImageSegmentation, model: torch.nn.Module, pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    prepared = settings.prepare(rows(pictures))
    assert prepared["error"].null_count == len(pictures)
    return settings.encode(settings.predict(model, prepared.drop(["error"]), CPU)).to_pylist()


@pytest.mark.parametrize("tta", ["none", "flip", "scales"])
def test_images_of_any_size_in_one_batch(tta: str) -> None:
    pictures = [blocks(*size) for size in ((10, 10), (32, 48), (100, 33), (61, 200))]
    for row, pixels in zip(segmented(task(tta=tta), Threshold(), pictures), pictures, strict=True):
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == pixels.shape[:2]
        assert np.mean(mask != (pixels[..., 0] > 127)) < (0.001 if tta != "scales" else 0.05)
        assert row["class_pixels"] == [int((mask == index).sum()) for index in (0, 1)]
        assert 0.5 <= row["confidence"] <= 1


def test_a_tile_scale_is_undone() -> None:
    pixels = blocks(120, 90)
    (row,) = segmented(task(tile_scale=0.5), Threshold(), [pixels])
    mask = decode_mask(row["mask"]["bytes"])
    assert mask.shape == (120, 90)
    assert np.mean(mask != (pixels[..., 0] > 127)) < 0.01


def test_flips_average_what_depends_on_the_side() -> None:
    gray = np.full((32, 48, 3), 128, np.uint8)
    fit = {"resize": "fit"}
    (plain,) = segmented(task(**fit), LeftIsOne(), [gray])
    (flipped,) = segmented(task(tta="flip", **fit), LeftIsOne(), [gray + np.uint8(10)])
    assert plain["class_pixels"] == [32 * 24, 32 * 24]
    assert flipped["class_pixels"] == [0, 32 * 48]


def test_training_samples_are_tiles() -> None:
    pixels = blocks(80, 100)
    label = (pixels[..., 0] > 127).astype(np.uint8)
    label[:40, :60] = 255
    settings = task(tile_overlap=0.0)
    samples = settings.prepare_samples(rows([pixels, blocks(8, 8)], [label, np.zeros((8, 8), np.uint8)]))
    assert samples["error"].null_count == samples.num_rows
    assert samples.num_rows == 9, "9 tiles, of which one has no class; and the small image"
    batch = settings.collate(samples.drop(["error"]))
    assert batch["image"].shape == (9, 3, 32, 48)
    for image, truth in zip(batch["image"][:8], batch["label"][:8], strict=True):
        known = truth != NO_CLASS
        assert known.any()
        assert torch.equal((image[0] > 127)[known].to(torch.uint8), truth[known])
    assert (batch["image"][8, :, 8:] == PADDING).all()
    noise = Noise(0, 0, range(9), steps=10)
    assert settings.loss(Threshold(), settings.augment(batch, noise), noise).total.isfinite()
    assert settings.truth(samples.drop(["error"])) == {
        "dark": int((batch["label"] == 0).sum()),
        "bright": int((batch["label"] == 1).sum()),
    }


def test_a_broken_image_or_label_is_one_row() -> None:
    table = rows([blocks(80, 100)] * 2, [np.zeros((80, 100), np.uint8), np.zeros((9, 9), np.uint8)])
    samples = task().prepare_samples(table)
    assert [error["code"] for error in samples["error"].drop_null().to_pylist()] == ["bad_label"]
    broken = pa.table({"data": [b"GIF", b""], "format": ["object"] * 2, "label": [None] * 2}, INPUT_SCHEMA)
    assert [error["code"] for error in task().prepare(broken)["error"].to_pylist()] == ["not_an_image", "empty"]


def test_a_row_says_how_large_things_look() -> None:
    fit = task(resize="fit", usual_scale=0.5)
    small, large = segmented(fit, Threshold(), [blocks(64, 96), blocks(640, 960)])
    assert (small["scale"], large["scale"]) == (pytest.approx(1.0), pytest.approx(0.1))
    (tiled,) = segmented(task(usual_scale=1.0), Threshold(), [blocks(640, 960)])
    assert tiled["scale"] == pytest.approx(1.0)
    assert segmented(task(), Threshold(), [blocks(9, 9)])[0]["scale"] is None


def test_calibration_stores_temperature_and_scale() -> None:
    pixels = blocks(64, 96)
    wrong = np.where(np.random.default_rng(1).random((64, 96)) < 0.2, 1 - (pixels[..., 0] > 127), pixels[..., 0] > 127)
    settings = task(resize="fit")
    samples = settings.prepare_samples(rows([pixels], [wrong.astype(np.uint8)])).drop(["error"])
    found = settings.calibrated(Threshold(), [samples])
    assert found.usual_scale == pytest.approx(0.5)
    assert found.temperature > 1.5, "a fifth of the pixels are wrong, and the model is sure of all"
    (row,) = segmented(found, Threshold(), [pixels])
    assert row["confidence"] == pytest.approx(0.8, abs=0.06)


def test_half_of_a_training_sees_half_the_size() -> None:
    image = torch.rand(2, 3, 33, 48)
    label = torch.zeros(2, 33, 48, dtype=torch.uint8)
    config = AugmentConfig(half_size=0.5, flip=False, scale=(1, 1), brightness=0, contrast=0, color=0)
    for step, size in ((0, (17, 24)), (4, (17, 24)), (5, (33, 48)), (9, (33, 48))):
        seen, truth = augment_images(image, label, config, Noise(0, step, [0, 1], steps=10))
        assert truth is not None
        assert (seen.shape[2:], truth.shape[1:]) == (size, size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_scale": 1.5}, "tile_scale must be above 0 and at most 1, got 1.5"),
        ({"tile_overlap": 0.9}, "tile_overlap must be in"),
        ({"tta": "crop"}, "tta must be one of none, flip, scales, got 'crop'"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"objective": "mse"}, "objective must be one or a sum of"),
        ({"autoencoder": ImageReconstruction(height_px=32, width_px=48)}, "must be null where images are cut"),
    ],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        task(**settings)
