"""What every segmenter must do, whatever its architecture. A new one is added to `ARCHITECTURES`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from pipeline import config, models, package
from pipeline.errors import RequestError
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models import MODELS
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig
from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig, init_from_autoencoder
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder, carry_autoencoder
from pipeline.rows import INPUT_SCHEMA
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer
from testing.broken_images import encoded
from testing.tiny_segmenter import TinySegmenter, TinySegmenterConfig

STAGES = {"widths": [8, 16, 24], "blocks": [0, 1, 1]}
#: By name: small settings besides classes and channels.
ARCHITECTURES: dict[str, dict[str, Any]] = {"unet": STAGES, "tiny": {}}
AUTOENCODERS = {
    "flat": ConvVAEConfig(widths=(8, 16, 24), blocks=(0, 1, 1), decoder_blocks=(0, 0, 0), latent_channels=4),
    "ladder": LadderVAEConfig(widths=(8, 16, 24), blocks=(0, 1, 1), decoder_blocks=(0, 0, 0), latent_channels=(4, 2)),
}


@pytest.fixture(autouse=True)
def _second_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny segmenter becomes known by what a developer would write: one line in `MODELS`."""
    monkeypatch.setitem(MODELS, "tiny", (TinySegmenterConfig, TinySegmenter))
    torch.manual_seed(0)


def built(name: str, classes: int = 5, autoencoder: Any = None) -> Any:
    carried = None if autoencoder is None else config.to_dict(autoencoder)
    settings = json.loads(json.dumps({"classes": classes, **ARCHITECTURES[name], "autoencoder": carried}))
    return models.build(name, settings)


def autoencoder(kind: str) -> Any:
    settings = AUTOENCODERS[kind]
    return ConvVAE(settings) if isinstance(settings, ConvVAEConfig) else LadderVAE(settings)


def test_every_segmenter_is_in_the_suite() -> None:
    assert {*ARCHITECTURES, "pixels"} == set(models.names_of(Segmenter)), "trees are not trained by gradients"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (1, 80), (17, 33), (32, 48), (180, 240)])
def test_logits_at_the_image_size(name: str, size: tuple[int, int]) -> None:
    model = built(name).eval()
    with torch.inference_mode():
        logits = model(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_image_does_not_see_the_rest_of_its_batch(name: str) -> None:
    model = built(name).eval()
    images = torch.rand(3, 3, 20, 28)
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_overfits_one_batch(name: str) -> None:
    model = built(name, classes=3)
    label = torch.zeros(2, 24, 32, dtype=torch.int64)
    label[0, :, 16:], label[1, 12:] = 1, 2
    image = torch.stack([label * 0.3 + 0.1, label * 0.1, torch.rand(2, 24, 32)], 1).float()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(80):
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model(image).argmax(1) == label).float().mean() > 0.97


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_the_encoder_starts_from_an_autoencoder(kind: str) -> None:
    source, model = autoencoder(kind), built("unet")
    head = model.head.weight.clone()
    assert init_from_autoencoder(model, source) == len(source.encoder.state_dict()) == len(model.encoder.state_dict())
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name
    assert torch.equal(model.head.weight, head), "the rest stays"
    image = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(model.feature_maps(image), source.encoder.feature_maps(image))


def test_what_cannot_start_from_an_autoencoder_says_so() -> None:
    source = ConvVAE(ConvVAEConfig(widths=(8, 16, 32), blocks=(0, 1, 1), decoder_blocks=(0, 0, 0)))
    with pytest.raises(RequestError, match=r"UNetConfig.widths must be the autoencoder's \(8, 16, 32\)"):
        init_from_autoencoder(built("unet"), source)
    with pytest.raises(RequestError, match="TinySegmenter has no encoder that an autoencoder could start"):
        init_from_autoencoder(built("tiny"), source)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_wrong_channels_are_a_request_error(name: str) -> None:
    with pytest.raises(RequestError, match=r"channels is 3, but images have 4"):
        built(name)(torch.rand(1, 4, 16, 16))
    with pytest.raises(RequestError, match=r"SegmenterConfig.classes must be at least 2, got 1"):
        SegmenterConfig(classes=1)


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_segmenter_trains_packs_and_segments_with_an_autoencoder_beside_it(
    name: str, kind: str, tmp_path: Path
) -> None:
    """The whole way of a segmenter: a task that knows novelty, the trainer, a package, prediction."""
    seen = ImageReconstruction(height_px=16, width_px=24)
    pixels = [(torch.rand(16, 24, 3) * 255).byte().numpy() for _ in range(4)]
    labels = [encoded(torch.ones(16, 24).byte().numpy(), "PNG")] * 4
    inputs = {"data": [encoded(image, "PNG") for image in pixels], "format": ["object"] * 4, "label": labels}
    rows = pa.table(inputs, schema=INPUT_SCHEMA)
    carried = autoencoder(kind)
    known = seen.calibrated(carried, [seen.prepare_samples(rows).drop(["error"])])
    task = ImageSegmentation(
        classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=16, width_px=24, autoencoder=known
    )
    model = built(name, classes=2, autoencoder=AUTOENCODERS[kind])
    assert carry_autoencoder(model, carried) == len(carried.state_dict())
    plain = set(built(name, classes=2).state_dict())
    assert {key for key in model.state_dict() if not key.startswith("autoencoder.")} == plain
    samples = Samples([task.prepare_samples(rows).drop(["error"])])
    trainer = Trainer(task, model, TrainConfig(epochs=2, batch_rows=2, weight_decay=0.5), samples, samples)
    list(trainer.run())
    trained = trainer.best_model()
    written = package.save(str(tmp_path), model_name=name, model=trained, task=task, card={})
    again = package.load(written.uri, task.kind)
    loaded = again.model()
    assert isinstance(loaded, SegmenterWithAutoencoder)
    assert isinstance(loaded.segmenter, MODELS[name][1])
    for key, value in carried.state_dict().items():
        assert torch.equal(loaded.autoencoder.state_dict()[key], value), "no training changes the autoencoder"
    prepared = task.prepare(rows).drop(["error"])
    found, expected = (task.encode(task.predict(net, prepared, torch.device("cpu"))) for net in (loaded, trained))
    assert found.equals(expected)
    assert found["novelty"].null_count == found["embedding"].null_count == 0
