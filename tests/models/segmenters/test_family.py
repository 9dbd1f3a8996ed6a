"""What every segmenter must do, whatever its architecture. A new one is added to `ARCHITECTURES`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jaxtyping
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
from pipeline.models.segmenters.with_autoencoder import (
    SegmenterWithAutoencoder,
    carry_autoencoder,
    init_from_segmenter,
    init_without_head,
)
from pipeline.rows import INPUT_SCHEMA
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer
from testing.broken_images import encoded
from testing.tiny_segmenter import TinySegmenter, TinySegmenterConfig

STAGES = {"widths": [8, 16, 24], "blocks": [0, 1, 1]}
#: By name: small settings besides classes and channels.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "unet": STAGES,
    "fcn": STAGES,
    "deeplabv3plus": {**STAGES, "output_stride": 8, "rates": [1, 2], "decoder_width": 16},
    "light": {"widths": [8, 16, 24, 32], "blocks": [0, 0, 1, 1]},
    "vae_unet": {**STAGES, "latent_channels": 4},
    "tiny": {},
}
#: Those that can start from an autoencoder.
WITH_ENCODER = [name for name in ARCHITECTURES if name != "tiny"]
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


def autoencoder(kind: str, architecture: str = "unet") -> Any:
    """A new autoencoder, whose encoder is that of an architecture."""
    stages = {name: tuple(ARCHITECTURES[architecture][name]) for name in STAGES}
    settings: Any = dataclasses.replace(AUTOENCODERS[kind], **stages, decoder_blocks=(0,) * len(stages["widths"]))
    return ConvVAE(settings) if isinstance(settings, ConvVAEConfig) else LadderVAE(settings)


def test_every_segmenter_is_in_the_suite() -> None:
    assert {*ARCHITECTURES, "pixels"} == set(models.names_of(Segmenter)), "trees are not trained by gradients"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (1, 80), (37, 53), (32, 48), (180, 240)])
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
    found, alone = (
        model.training_outputs(images[rows], lambda *shape, rows=rows: _drawn(3, *shape)[rows])
        for rows in (slice(0, 3), slice(1, 2))
    )
    torch.testing.assert_close(found[0][1:2], alone[0], atol=1e-5, rtol=0)
    assert set(found[1]) == set(alone[1]) == ({"reconstruction", "kl"} if name == "vae_unet" else set())
    for key, penalty in found[1].items():
        assert penalty.shape == (3,)
        torch.testing.assert_close(penalty[1:2], alone[1][key], atol=1e-5, rtol=1e-5)


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_memory_order_and_autocast_change_rounding_only(name: str) -> None:
    model = built(name).eval()
    image = torch.rand(2, 3, 37, 53)
    with torch.inference_mode():
        plain = model(image)
        turned = model.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            short = model(image)
    torch.testing.assert_close(turned, plain, atol=1e-5, rtol=1e-5)
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, plain, atol=0.05 * plain.std().item() + 0.02, rtol=0.05)
    assert not torch.equal(short, plain), "autocast must reach the network"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_can_be_exported_for_images_of_any_size(name: str, request: pytest.FixtureRequest) -> None:
    # The checks of annotations, which only tests have, do not know that an exported size is an integer.
    jaxtyping.config.update("jaxtyping_disable", True)
    request.addfinalizer(lambda: jaxtyping.config.update("jaxtyping_disable", False))
    model = built(name).eval()
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (torch.rand(1, 3, 45, 61),), dynamic_shapes=(sides,)).module()
    for size in [(45, 61), (37, 53), (96, 64)]:
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(program(image), model(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_overfits_one_batch(name: str) -> None:
    model = built(name, classes=3)
    label = torch.zeros(4, 24, 32, dtype=torch.int64)
    label[0, :, 16:], label[1, 12:], label[2, 8:, 8:], label[3, :, :24] = 1, 2, 1, 2
    image = torch.stack([label * 0.3 + 0.1, label * 0.1, torch.rand(4, 24, 32)], 1).float()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(80):
        logits, penalties = model.training_outputs(image, lambda *shape: torch.randn(4, *shape))
        loss = F.cross_entropy(logits, label)
        optimizer.zero_grad()
        (loss + sum(penalty.mean() for penalty in penalties.values())).backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model(image).argmax(1) == label).float().mean() > 0.97


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("name", WITH_ENCODER)
def test_the_encoder_starts_from_an_autoencoder(name: str, kind: str) -> None:
    source, model = autoencoder(kind, name), built(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copied = init_from_autoencoder(model, source)
    assert copied == [f"encoder.{key}" for key in source.encoder.state_dict()]
    assert set(copied) == {key for key in before if key.startswith("encoder.")}
    for key, value in model.state_dict().items():
        wanted = source.state_dict()[key] if key in copied else before[key]
        assert torch.equal(value, wanted), f"{key}: the encoder is copied, the rest stays"
    image = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(model.feature_maps(image), source.encoder.feature_maps(image))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_segmenter_starts_from_another(name: str) -> None:
    source, same, other = built(name, autoencoder=AUTOENCODERS["flat"]), built(name), built(name, classes=7)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    own = {key: value for key, value in source.state_dict().items() if not key.startswith("autoencoder.")}
    assert init_from_segmenter(same, source) == list(own)
    assert all(torch.equal(same.state_dict()[key], value) for key, value in own.items())
    copied = init_without_head(other, source)
    assert copied == [key for key in own if not key.startswith("head.")]
    assert len(copied) < len(own)
    for key, value in other.state_dict().items():
        assert torch.equal(value, own[key] if key in copied else before[key]), key
    with pytest.raises(RequestError, match=r"\.classes must be the package's 5, got 7"):
        init_from_segmenter(built(name, classes=7), source)


def test_a_segmenter_of_other_settings_cannot_be_the_start() -> None:
    with pytest.raises(RequestError, match="the network must be the package's FCN, got UNet"):
        init_from_segmenter(built("unet"), built("fcn"))
    wider = models.build("unet", {"classes": 5, "widths": [8, 16, 32], "blocks": [0, 1, 1]})
    with pytest.raises(RequestError, match=r"UNetConfig.widths must be the package's \(8, 16, 32\), got \(8, 16, 24\)"):
        init_without_head(built("unet"), wider)


@pytest.mark.parametrize("name", WITH_ENCODER)
def test_one_number_sets_every_width(name: str) -> None:
    config_class = MODELS[name][0]
    base = config_class(classes=2)
    unit = base.widths[0]
    assert config_class.of_width(unit) == {key: getattr(base, key) for key in config_class.scaled}
    for width in (8, 24):
        made = config_class(classes=2, **config_class.of_width(width))
        assert made.widths == tuple(width * value // unit for value in base.widths)
        assert models.build(name, config.to_dict(made)).config == made
    for wrong in (0, -8, 12):
        with pytest.raises(RequestError, match=f"width must be a positive multiple of 8, got {wrong}"):
            config_class.of_width(wrong)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "fcn",
            {"widths": [8, 8], "blocks": [0, 0]},
            r"FCNConfig.widths must have at least 3 resolutions, got \(8, 8\)",
        ),
        ("light", STAGES, r"LightConfig.widths must have at least 4 resolutions"),
        ("light", {"detail_blocks": -1}, r"LightConfig.detail_blocks must not be negative, got -1"),
        ("deeplabv3plus", STAGES, r"DeepLabV3PlusConfig.output_stride must be at most 8 with 3 widths, got 16"),
        ("deeplabv3plus", {"output_stride": 4}, r"DeepLabV3PlusConfig.output_stride must be one of 8, 16, got 4"),
        ("deeplabv3plus", {"rates": [0]}, r"DeepLabV3PlusConfig.rates must be at least 1, got \(0,\)"),
        ("deeplabv3plus", {"decoder_width": 12}, r"decoder_width must be a positive multiple of 8, got 12"),
        ("vae_unet", {"vae_weight": -1}, r"VAEUNetConfig.vae_weight must not be negative, got -1"),
        ("vae_unet", {"latent_channels": 0}, r"VAEUNetConfig.latent_channels must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        models.build(name, {"classes": 2, **settings})


def test_an_output_stride_keeps_maps_large_and_weights_as_they_are() -> None:
    """A stage without its stride but with dilation sees, at every second position, what it saw with the stride."""
    settings = {"classes": 2, "widths": [8, 8, 8, 16, 16], "blocks": [0, 0, 1, 1, 1], "decoder_width": 8}
    dilated: Any
    coarser: Any
    dilated, coarser = (models.build("deeplabv3plus", settings | {"output_stride": stride}) for stride in (8, 16))
    plain = ConvVAE(ConvVAEConfig(widths=(8, 8, 8, 16, 16), blocks=(0, 0, 1, 1, 1), decoder_blocks=(0,) * 5))
    for model in (dilated, coarser):
        init_from_autoencoder(model, plain)
    image = torch.rand(1, 3, 80, 96)
    sizes = {model: [tuple(found.shape[2:]) for found in model.feature_maps(image)] for model in (dilated, coarser)}
    assert sizes[dilated][2:] == [(10, 12)] * 3
    assert sizes[coarser][2:] == [(10, 12), (5, 6), (5, 6)]
    for convolution, strided in zip(_convolutions(dilated.encoder), _convolutions(plain.encoder), strict=True):
        assert convolution.weight.shape == strided.weight.shape
    x = torch.rand(1, 8, 20, 24)
    apart, whole = (model.encoder.stages[3][0][0](x) for model in (dilated, plain))
    torch.testing.assert_close(apart[..., ::2, ::2], whole, atol=1e-5, rtol=1e-5)
    after, deep = (model.encoder.stages[3][1].first[0] for model in (dilated, plain))
    torch.testing.assert_close(after(apart)[..., ::2, ::2], deep(whole), atol=1e-5, rtol=1e-5)


def _convolutions(module: torch.nn.Module) -> list[torch.nn.Conv2d]:
    return [found for found in module.modules() if isinstance(found, torch.nn.Conv2d)]


def test_the_branch_of_a_vae_unet_draws_the_image_and_is_left_out_of_the_masks() -> None:
    model = built("vae_unet")
    image = torch.rand(4, 3, 1, 1).expand(4, 3, 24, 32).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    costs = []
    for _ in range(60):
        _, penalties = model.training_outputs(image, lambda *shape: torch.randn(4, *shape))
        costs.append({name: penalty.mean().item() for name, penalty in penalties.items()})
        optimizer.zero_grad()
        sum(penalty.mean() for penalty in penalties.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert costs[-1]["reconstruction"] < 0.3 * costs[0]["reconstruction"]
    assert all(min(cost.values()) >= 0 for cost in costs)
    logits = model(image)
    with torch.no_grad():
        for parameter in [*model.posterior.parameters(), *model.reconstruction.parameters()]:
            parameter.fill_(float("nan"))
    assert torch.equal(model(image), logits)


def test_the_settings_of_a_unet_are_those_of_packages_on_disk() -> None:
    known = {"classes": 5, "channels": 3, "widths": [32, 64, 128, 192], "blocks": [1, 2, 2, 2], "autoencoder": None}
    settings = models.settings_of(models.build("unet", {"classes": 5}))
    assert settings == known | {"norm": "group"}
    assert models.identity_of("unet", settings) == known


@pytest.mark.parametrize("name", ["unet", "fcn", "vae_unet"])  # the others look at the whole image by design
def test_with_channel_norm_a_part_of_an_image_gives_what_the_image_gives_there(name: str) -> None:
    """But near its edges. With groups of channels over the whole image, each pixel depends on all others."""
    image = torch.rand(1, 3, 512, 64)
    for norm in ("channel", "group"):
        model = models.build(name, {"classes": 3, **ARCHITECTURES[name], "norm": norm}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            whole, part = model(image)[:, :, 256:], model(image[:, :, 128:])[:, :, 128:]
        is_same = torch.allclose(whole, part, atol=1e-4)
        assert is_same == (norm == "channel")


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
    assert carry_autoencoder(model, carried) == [f"autoencoder.{key}" for key in carried.state_dict()]
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
    assert found["novelty_raw"].null_count == found["embedding"].null_count == 0
    assert found["novelty"].null_count == 4
    assert "at least 100" in task.remarks["novelty"]
