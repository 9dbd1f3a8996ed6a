"""Novelty: the bits that an image costs the autoencoder beyond those that it costs a compressor."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import models
from pipeline.config import to_dict
from pipeline.errors import RequestError
from pipeline.images import novelty
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder, carry_autoencoder
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer
from testing.broken_images import encoded
from tests.images.test_task import CPU, rows

STAGES = {"widths": (8, 16), "blocks": (0, 1), "decoder_blocks": (0, 1)}
FLAT = ConvVAEConfig(**STAGES, latent_channels=3)
LADDER = LadderVAEConfig(**STAGES, latent_channels=(3, 2))
TASK = ImageReconstruction(height_px=16, width_px=24)


def image(seed, height=16, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scored(task, model, images):
    prepared = task.prepare(rows([encoded(one, "PNG") for one in images]))
    return task.predict(model, prepared.drop(["error"]), CPU)


def model_of(config, seed=0):
    torch.manual_seed(seed)
    return (ConvVAE if isinstance(config, ConvVAEConfig) else LadderVAE)(config).eval()


def test_noise_cannot_be_compressed_and_a_constant_costs_next_to_nothing():
    assert novelty.compressed_bits(image(0, 64, 64)) == pytest.approx(8, rel=0.05)
    assert novelty.compressed_bits(np.full((64, 64, 3), 77, np.uint8)) < 0.1
    assert novelty.compressed_bits(image(0, 64, 64)[..., 0]) == pytest.approx(8, rel=0.05)


def test_percentiles_are_shares_of_the_reference():
    bits = np.arange(101, dtype=np.float32)[::-1]
    found = novelty.reference(bits, np.full(101, 3.0))
    assert found.complexity_weight == 0
    shares = found.percentile(np.array([-5, 0, 25, 50.5, 100, 1e9]))
    np.testing.assert_allclose(shares, [0, 0, 25, 50.5, 100, 100], atol=1e-4)


def test_complexity_weighs_as_much_as_it_explains_of_the_bits():
    generator = np.random.default_rng(0)
    compressed = generator.uniform(1, 5, 5000)
    bits = 2 + 0.4 * compressed + generator.normal(0, 0.1, 5000)
    found = novelty.reference(bits, compressed)
    assert found.complexity_weight == pytest.approx(0.4, abs=0.01)
    raw = found.raw(bits, compressed)
    assert abs(np.corrcoef(raw, compressed)[0, 1]) < 1e-3
    # A simple image that costs as much as a complex one does is novel, though its bits alone are ordinary.
    simple = found.raw(np.array([bits.mean()]), np.array([0.1]))
    assert found.percentile(simple) == 100
    assert novelty.reference(-bits, compressed).complexity_weight == 0
    assert novelty.reference(bits[:30], compressed[:30]).complexity_weight > 0.3
    assert novelty.reference(bits[:29], compressed[:29]).complexity_weight == 0
    assert novelty.reference(3 * compressed, compressed).complexity_weight == 1


@pytest.mark.parametrize("config", [FLAT, LADDER], ids=["flat", "ladder"])
def test_the_raw_score_is_the_bound_less_what_complexity_explains(config):
    model, images = model_of(config), [image(0), np.full((16, 24, 3), 90, np.uint8), image(1, 9, 24)]
    assert scored(TASK, model, images)["novelty"].null_count == 3
    task = dataclasses.replace(TASK, reference=novelty.Reference(complexity_weight=0.25, quantiles=(0.0, 100.0)))
    found = scored(task, model, images)
    compressed = TASK.prepare(rows([encoded(one, "PNG") for one in images]))["compressed_bits"].to_numpy()
    expected = found["bits_per_dimension"].to_numpy() - 0.25 * compressed
    np.testing.assert_allclose(found["novelty_raw"].to_numpy(), expected, rtol=1e-6)
    assert compressed[0] == pytest.approx(novelty.compressed_bits(image(0)))
    # What is padding in the box is nobody's complexity.
    assert compressed[2] == pytest.approx(novelty.compressed_bits(image(1, 9, 24)))
    np.testing.assert_allclose(found["novelty"].to_numpy(), np.clip(expected, 0, 100), rtol=1e-5)
    pixels = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float() / 255
    means = [level.mean.mean((2, 3)) for level in model.infer(pixels, None).levels]
    np.testing.assert_allclose(
        found["embedding"][0].as_py(), torch.cat(means, 1)[0].detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_gray_and_binary_models_compress_what_they_see():
    gray = dataclasses.replace(TASK, channels=1)
    binary = dataclasses.replace(gray, binarise=True)
    even = rows([encoded(np.full((16, 24, 3), 128, np.uint8), "PNG")])
    assert gray.prepare(even)["compressed_bits"][0].as_py() < 1
    assert binary.prepare(even)["compressed_bits"][0].as_py() > 1  # the draw is noise


def test_training_leaves_a_reference_of_held_out_images():
    pictures = rows([encoded(image(seed), "PNG") for seed in range(100)])
    samples = Samples([TASK.prepare_samples(pictures).drop(["error"])])
    trainer = Trainer(TASK, model_of(FLAT), TrainConfig(epochs=1, batch_rows=4), samples, samples)
    list(trainer.run())
    model = trainer.best_model()
    task = trainer.calibrated_task(model)
    assert isinstance(task, ImageReconstruction)
    found = scored(task, model, [image(seed) for seed in range(100)])
    order = np.argsort(found["novelty_raw"].to_numpy())
    np.testing.assert_allclose(found["novelty"].to_numpy()[order], np.linspace(0, 100, 100), atol=0.2)
    assert task.calibrated(model, (samples.take(range(start, start + 4)) for start in range(0, 100, 4))) == task
    with pytest.raises(RequestError, match=r"Reference.quantiles must be at least 2 values, lowest first"):
        novelty.Reference(complexity_weight=0.1, quantiles=(2.0, 1.0))


@pytest.mark.parametrize("config", [FLAT, LADDER], ids=["flat", "ladder"])
def test_a_segmenter_carries_an_autoencoder_that_training_does_not_touch(config):
    autoencoder = model_of(config, seed=3)
    calibrated = TASK.calibrated(
        autoencoder, [TASK.prepare_samples(rows([encoded(image(seed), "PNG") for seed in range(100)])).drop(["error"])]
    )
    task = ImageSegmentation(
        classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=16, width_px=24, autoencoder=calibrated
    )
    network = {"classes": 2, "widths": [8, 16], "blocks": [0, 1]}
    segmenter = models.build("unet", network | {"autoencoder": to_dict(config)})
    assert len(carry_autoencoder(segmenter, autoencoder)) == len(autoencoder.state_dict())
    labels = [encoded(np.ones((16, 24), np.uint8), "PNG")] * 4
    table = rows([encoded(image(seed), "PNG") for seed in range(4)], labels)
    samples = Samples([task.prepare_samples(table).drop(["error"])])
    trainer = Trainer(task, segmenter, TrainConfig(epochs=2, batch_rows=2, weight_decay=0.5), samples, samples)
    list(trainer.run())
    model = trainer.best_model()
    assert isinstance(model, SegmenterWithAutoencoder)
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(model.autoencoder.state_dict()[name], value), name
    found = task.encode(task.predict(model, task.prepare(table).drop(["error"]), CPU))
    alone = scored(calibrated, autoencoder, [image(seed) for seed in range(4)])
    for name, _ in novelty.COLUMNS:
        assert found[name].null_count == 0
        assert found[name].to_pylist() == [pytest.approx(value, abs=1e-4) for value in alone[name].to_pylist()]


def test_percentiles_among_few_images_are_null_and_the_task_says_why():
    few = [TASK.prepare_samples(rows([encoded(image(seed), "PNG") for seed in range(16)])).drop(["error"])]
    task = TASK.calibrated(model_of(FLAT), few)
    assert task.remarks == {"novelty": "null: there were 16 held-out images, and at least 100 are needed"}
    found = scored(task, model_of(FLAT), [image(0)])
    assert found["novelty"].null_count == 1
    assert found["novelty_raw"].null_count == 0


def test_both_see_images_in_the_same_box():
    with pytest.raises(RequestError, match=r"autoencoder must see images in the same box of 16 x 32 pixels"):
        ImageSegmentation(
            classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=16, width_px=32, autoencoder=TASK
        )


def test_a_failed_row_has_no_compressed_size():
    prepared = TASK.prepare(rows([b"", encoded(image(0), "PNG")]))
    assert prepared["compressed_bits"].to_pylist()[0] is None
    assert prepared["compressed_bits"].null_count == 1
    assert isinstance(prepared, pa.Table)
