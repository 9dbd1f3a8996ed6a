"""Our segmenters as ONNX files, and back: the masks are the same but for ties."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import onnx
import pytest
import torch

from pipeline import config, package
from pipeline.errors import JobFailed, RequestError
from pipeline.exchange.export import largest_difference
from pipeline.exchange.metadata import described, task_of
from pipeline.exchange.probing import drawn_images
from pipeline.images.task import ImageSegmentation
from testing.jobs import call_job
from tests.models.segmenters.test_family import ARCHITECTURES, built


@pytest.fixture(autouse=True)
def _unchecked_shapes() -> Iterator[None]:
    """The exporter runs the network on symbols in place of numbers, which the checks of shapes in tests refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


EXPORTED = [name for name in ARCHITECTURES if name != "tiny"]
TASK = ImageSegmentation(
    classes=("sky", "road", "tree", "car", "none"),
    palette=((0, 0, 1), (0, 2, 0), (3, 0, 0), (9, 9, 9), (7, 7, 7)),
    ignore_index=255,
    height_px=40,
    width_px=56,
    temperature=1.5,
    usual_scale=0.5,
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "unet" else pytest.mark.heavy) for name in EXPORTED],
)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = built(name).eval()
    ours, file, again = (str(tmp_path / part) for part in ("ours", "network.onnx", "again"))
    package.save(ours, model_name=name, model=model, task=TASK, card={})
    code, summary, err = call_job("export_model", "--model", ours, "--out", file)
    assert code == 0, (summary, err)
    assert summary["largest_difference"] < 1e-4
    axes = [dim.dim_param or dim.dim_value for dim in onnx.load(file).graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]

    code, summary, err = call_job("import_segmenter", "--onnx", file, "--out", again)
    assert code == 0, (summary, err)
    assert (summary["multiple_px"], summary["batch_rows"], summary["input_size"]) == (1, None, [40, 56])
    back = package.load(again)
    task = config.from_dict(ImageSegmentation, back.task)
    assert config.to_dict(task) == config.to_dict(TASK), "classes, colours, temperature: all that the task says"
    theirs = back.model()
    for size in ((40, 56), (33, 47), (64, 100)):
        images = drawn_images(2, *size)
        with torch.inference_mode():
            mine, found = model(images), theirs(images)
        torch.testing.assert_close(found, mine, atol=1e-3, rtol=1e-3)
        assert (found.argmax(1) != mine.argmax(1)).double().mean() < 1e-3

    with torch.no_grad():
        list(model.head.parameters())[-1].add_(1.0)
    with pytest.raises(JobFailed, match="gives other logits than the model"):
        largest_difference(model, Path(file).read_bytes())


def test_metadata_are_read_again_without_what_belongs_to_training() -> None:
    task = ImageSegmentation(
        classes=TASK.classes,
        palette=TASK.palette,
        class_weights=(1.0, 2.0, 3.0, 4.0, 5.0),
        resize="tile",
        tile_scale=0.5,
    )
    texts = described(task, "digest")
    found = task_of(texts["parquetry"])
    assert found.class_weights is None
    assert (found.classes, found.palette, found.resize, found.tile_scale) == (
        (task.classes, task.palette, task.resize, task.tile_scale)
    )
    assert json.loads(texts["classes"]) == list(TASK.classes)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "are not JSON"),
        ("[" * 100_000, "are not JSON"),
        ("[]", "must have the format 1 and a task"),
        ('{"format": 2, "task": {}}', "must have the format 1 and a task"),
        ('{"format": 1, "task": {}}', "do not fit: ImageSegmentation.classes is missing"),
        (
            '{"format": 1, "task": {"classes": 3, "palette": []}}',
            "do not fit: ImageSegmentation.classes must be a list",
        ),
    ],
)
def test_other_metadata_are_refused(text: str, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        task_of(text)


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = built("unet")
    package.save(str(tmp_path / "unet"), model_name="unet", model=model, task=TASK, card={})
    code, summary, _ = call_job("export_model", "--model", str(tmp_path / "unet"), "--out", str(tmp_path / "x.pt"))
    assert (code, "ExportModel.out must end with .onnx" in summary["error"]) == (2, True)
    file = tmp_path / "unet" / "config.json"
    content = json.loads(file.read_text())
    content["model"]["name"] = "pixels"
    file.write_text(json.dumps(content))
    code, summary, _ = call_job("export_model", "--model", str(tmp_path / "unet"), "--out", str(tmp_path / "x.onnx"))
    assert (code, "architecture pixels cannot be exported: they are trees" in summary["error"]) == (2, True)
