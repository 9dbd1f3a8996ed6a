"""What every task must keep so that any number of workers can share a batch: halves of it add up to the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from pipeline import config, models, package
from pipeline.examples.prose import reference_documents
from pipeline.examples.scenes import CLASSES, PALETTE, write_scenes
from pipeline.images.classification import ImageClassification
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.regions import ImageRegions
from pipeline.images.task import ImageSegmentation
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA
from pipeline.task import Task
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.subwords import FIRST_PIECE
from pipeline.text.task import TextSegmentation

BOX = {"height_px": 24, "width_px": 32}
STAGES = {"widths": (8, 16), "blocks": (1, 1)}
CASES: dict[str, tuple[Task, dict[str, Any]]] = {
    "unet": (
        ImageSegmentation(classes=CLASSES, palette=PALETTE, **BOX, class_weights=(1.0, 2.0, 0.5, 3.0, 1.5)),
        {"classes": 5, **STAGES},
    ),
    **{
        name: (ImageSegmentation(classes=CLASSES, palette=PALETTE, **BOX), {"classes": 5, **settings})
        for name, settings in {
            "fcn": {"widths": (8, 8, 16), "blocks": (0, 1, 1)},
            "deeplabv3plus": {"widths": (8, 8, 16), "blocks": (0, 1, 1), "output_stride": 8, "decoder_width": 16},
            "light": {"widths": (8, 8, 16, 16), "blocks": (0, 0, 1, 1)},
            "vae_unet": {**STAGES, "latent_channels": 4},
        }.items()
    },
    "slot_vae": (
        ImageRegions.of(3, **BOX),
        {"slots": 3, "width": 8, "slot_width": 8, "latent_channels": 4, "iterations": 2},
    ),
    "latent_classifier": (
        ImageClassification(classes=("a", "b"), autoencoder=ImageReconstruction(**BOX)),
        {
            "classes": 2,
            "latents": 4,
            "dropout": 0.0,  # else halves of a batch leave out other units than the whole
            "conv_vae": {**STAGES, "decoder_blocks": (1, 1), "latent_channels": 4},
        },
    ),
    "conv_vae": (ImageReconstruction(**BOX), {**STAGES, "decoder_blocks": (1, 1), "latent_channels": 4}),
    "sentence_tagger": (
        TextSegmentation(buckets=512, window_sentences=24, context_sentences=4),
        {"buckets": 512, "vector_size": 16, "width": 8, "hidden": 8},
    ),
    "sentence_vae": (
        SentenceReconstruction(vocabulary=("th", "the", " the"), max_subwords=24, pretraining=0.0),
        {"vocabulary": FIRST_PIECE + 3, "embedding": 8, "encoder_hidden": 8, "decoder_hidden": 8, "latents": 4},
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Task, nn.Module, pa.Table]:
    """A task, a new model for it, and eight prepared samples."""
    task, settings = CASES[request.param]
    torch.manual_seed(0)
    model = models.build(request.param, json.loads(json.dumps(settings)))
    if isinstance(task, (TextSegmentation, SentenceReconstruction)):
        data = [json.dumps(item).encode() for item in reference_documents()[:6]]
        inputs = {"data": data, "format": ["json"] * 6, "label": [None] * 6}
    else:
        write_scenes(str(tmp_path), {"train": 8}, height=30, width=40)
        images, labels = sorted(tmp_path.rglob("*.jpg")), sorted(tmp_path.rglob("*.png"))
        inputs = {
            "data": [path.read_bytes() for path in images],
            "format": ["object"] * 8,
            "label": [path.read_bytes() for path in labels],
        }
        if isinstance(task, ImageClassification):
            inputs["label"] = [b"a", b"b", None, b"a"] * 2
    samples = task.prepare_samples(pa.table(inputs, schema=INPUT_SCHEMA))
    assert samples["error"].null_count == samples.num_rows >= 8
    return task, model, samples.drop_columns(["error"]).slice(0, 8)


def loss_of(task: Task, model: nn.Module, samples: pa.Table, indices: range) -> tuple[float, float, list[torch.Tensor]]:
    """Total, units and gradients of the total, in training mode, for these rows."""
    noise = Noise(5, 3, indices)
    model.train()
    model.zero_grad()
    batch = task.augment(task.collate(samples.take(list(indices))), noise)
    loss = task.loss(model, batch, noise)
    loss.total.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return loss.total.item(), loss.units.item(), gradients


def test_halves_of_a_batch_add_up_to_the_whole(case: tuple[Task, nn.Module, pa.Table]) -> None:
    whole = loss_of(*case, range(8))
    parts = [loss_of(*case, range(3)), loss_of(*case, range(3, 8))]
    assert sum(part[0] for part in parts) == pytest.approx(whole[0], rel=1e-4)
    assert sum(part[1] for part in parts) == pytest.approx(whole[1], rel=1e-6)
    for left, right, both in zip(parts[0][2], parts[1][2], whole[2], strict=True):
        torch.testing.assert_close(left + right, both, rtol=1e-3, atol=1e-3 * max(1e-3, both.abs().max().item()))


def test_statistics_add_up(case: tuple[Task, nn.Module, pa.Table]) -> None:
    task, model, samples = case
    model.eval()
    noise = Noise(5, -1, range(8))
    with torch.inference_mode():
        whole = task.score(model, task.collate(samples), noise)
        parts = [
            task.score(model, task.collate(samples.slice(start, size)), Noise(5, -1, range(start, start + size)))
            for start, size in ((0, 3), (3, 5))
        ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, rtol=1e-4, atol=2.0)
    assert task.metric[0] in task.summarize(whole)


def test_settings_travel_as_a_dict(case: tuple[Task, nn.Module, pa.Table]) -> None:
    task = case[0]
    assert config.from_dict(type(task), json.loads(json.dumps(config.to_dict(task)))) == task


def test_a_package_gives_the_same_outputs(case: tuple[Task, nn.Module, pa.Table], tmp_path: Path) -> None:
    task, model, samples = case
    name = next(name for name, (_, network) in models.MODELS.items() if type(model) is network)
    written = package.save(str(tmp_path / "package"), model_name=name, model=model, task=task, card={"a": {"b": 1}})
    again = package.load(str(tmp_path / "package"), task.kind)
    assert again == written
    with torch.inference_mode():
        batch = task.collate(samples)
        one, other = (task.score(net, batch, Noise(1, 1, range(8))) for net in (model.eval(), again.model()))
    torch.testing.assert_close(other, one, rtol=1e-6, atol=0)
