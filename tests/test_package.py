"""Model packages: what is written is what is read, and what does not fit is refused in the project's own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline import package
from pipeline.errors import RequestError
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig

SMALL = ConvVAEConfig(widths=(8, 16), blocks=(0, 0), decoder_blocks=(0, 0), latent_channels=2)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    where = str(tmp_path / "package")
    torch.manual_seed(0)
    package.save(where, model_name="conv_vae", model=ConvVAE(SMALL), task=ImageReconstruction(), card={})
    return where


def changed(uri: str, **settings: object) -> None:
    file = Path(uri) / "config.json"
    described = json.loads(file.read_text())
    described["model"]["config"] |= settings
    file.write_text(json.dumps(described))


def test_a_package_gives_the_weights_back(uri: str) -> None:
    torch.manual_seed(0)
    expected = ConvVAE(SMALL).state_dict()
    model = package.load(uri, "autoencoder").model()
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"latent_channels": 3}, "decoder.stem.0.weight"), ({"blocks": [0, 1]}, "encoder.stages.1.1.first.0.weight")],
)
def test_weights_of_another_shape_or_name_are_refused(uri: str, settings: dict[str, object], name: str) -> None:
    changed(uri, **settings)
    with pytest.raises(RequestError, match=f"weights do not fit the model, see '{name}'"):
        package.load(uri).model()


def test_broken_weights_are_refused(uri: str) -> None:
    file = Path(uri) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"model.safetensors is not the one that config.json names"):
        package.load(uri).model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, r"model.name in config.json must be a string, got None"),
        ({"model": "conv_vae"}, r"model.name in config.json must be a string, got None"),
        ({"task": None}, r"task in config.json must be an object, got None"),
        ({"weights_sha256": 7}, r"weights_sha256 in config.json must be a string, got 7"),
    ],
)
def test_an_incomplete_description_is_refused_by_its_member(uri: str, change: dict[str, object], message: str) -> None:
    file = Path(uri) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RequestError, match=message):
        package.load(uri)


def test_missing_weights_are_refused(uri: str) -> None:
    (Path(uri) / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"model.safetensors cannot be read"):
        package.load(uri).model()


def test_a_package_of_the_project_is_loaded_by_its_name() -> None:
    found = package.load("builtin:paragraphs-en", "text_segmenter")
    assert found.uri == "builtin:paragraphs-en"
    folder = Path(package.place_of(found.uri))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    assert {"config.json", "model.safetensors", "card.md"} <= {file.name for file in folder.iterdir()}
    assert all(value.dtype != torch.float16 for value in found.model().state_dict().values())
    with pytest.raises(RequestError, match=r"model 'builtin:nothing' must be one of builtin:c99, builtin:para"):
        package.load("builtin:nothing")
