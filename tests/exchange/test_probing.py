"""Networks of every form that is taken: how they want images is found out, and masks are those of the same in torch."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.exchange.probing import Probed, ProbeRequest, drawn_images, probe
from pipeline.models.segmenters.onnx import Onnx, OnnxFile
from pipeline.rows import INPUT_SCHEMA
from testing.broken_images import encoded, picture
from testing.onnx_networks import Network
from testing.runs import TASK

FILE = OnnxFile(name="model.onnx", sha256="")
SIZE = (24, 40)
#: By name: a network, what is asked for it, and what must be found.
NETWORKS: dict[str, tuple[Network, dict[str, Any], dict[str, Any]]] = {
    "any size": (Network(), {}, {"gives": "logits", "layout": "nchw", "batch_rows": None, "multiple_px": 1}),
    "channels last": (Network(layout="nhwc"), {}, {"layout": "nhwc", "output_layout": "nhwc"}),
    "one size": (
        Network(layout="nhwc", height=24, width=40, batch=1, classes=21, end="softmax", stride=4),
        {"order": "bgr", "input_size": None},
        {"gives": "probabilities", "height_px": 24, "width_px": 40, "batch_rows": 1, "output_layout": "nhwc"},
    ),
    "batches of four": (Network(batch=4, stride=8), {}, {"batch_rows": 4}),
    "half precision": (Network(dtype="float16", end="softmax"), {}, {"dtype": "float16", "gives": "probabilities"}),
    "bytes": (Network(dtype="uint8", brightness=255), {}, {"dtype": "uint8", "scale": 1.0}),
    "shifted": (
        Network(),
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "order": "bgr"},
        {"order": "bgr"},
    ),
    "pixels of 0 to 255": (Network(brightness=140), {"scale": 1.0, "mean": (104.0, 117.0, 123.0)}, {"scale": 1.0}),
    "ids": (Network(end="argmax_flat", stride=4), {}, {"gives": "ids"}),
    "ids with an axis": (Network(end="argmax", layout="nhwc"), {}, {"gives": "ids", "output_layout": "nhwc"}),
    "object": (Network(classes=2, end="sigmoid"), {}, {"gives": "object_probability"}),
    "object's logit": (Network(classes=2, end="object_logit", stride=4), {}, {"gives": "object_logit"}),
    "multiples of eight": (Network(multiple=8), {"input_size": (21, 45)}, {"multiple_px": 8, "height_px": None}),
}


def probed(network: Network, asked: dict[str, Any] | None = None, data: bytes | None = None) -> Probed:
    request = ProbeRequest(**{"classes": network.classes, "files": (FILE,), "input_size": SIZE, **(asked or {})})
    return probe([network.onnx() if data is None else data], request)


def attached(found: Probed, data: bytes) -> Onnx:
    model = Onnx(found.config)
    model.attach(lambda name, _: {"model.onnx": data}[name])
    return model


def reference(network: Network, asked: dict[str, Any], image: Tensor) -> Tensor:
    """The mask by torch, from images in [0, 1], prepared as the documentation says."""
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % network.multiple, 0, -height % network.multiple), value=128 / 255)
    scale = asked.get("scale") or (1.0 if network.dtype == "uint8" else 1 / 255)
    planes = []
    for index in range(3):
        shift, spread = asked.get("mean", (0, 0, 0))[index], asked.get("std", (1, 1, 1))[index]
        planes.append((image[:, index] * 255 * scale - shift) / spread)
    pixels = torch.stack(planes[::-1] if asked.get("order") == "bgr" else planes, 1)
    scores = network.scores(pixels.half() if network.dtype == "float16" else pixels)
    if network.end in ("sigmoid", "object_logit"):
        scores = torch.cat((torch.zeros_like(scores), scores), 1)
    if network.end.startswith("argmax"):
        ids = F.interpolate(scores.argmax(1, keepdim=True).float(), image.shape[2:], mode="nearest")
        return ids[:, 0, :height, :width].long()
    if network.end in ("softmax", "sigmoid"):
        scores = scores.log_softmax(1)
    scores = F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=False)
    return scores.argmax(1)[:, :height, :width]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_understood_and_gives_its_masks(name: str) -> None:
    network, asked, wanted = NETWORKS[name]
    found = probed(network, asked)
    assert {key: getattr(found.config, key) for key in wanted} == wanted
    assert (found.height_px, found.width_px) == (asked.get("input_size") or SIZE)
    model = attached(found, network.onnx())
    images = (drawn_images(3, found.height_px, found.width_px) * 255).round() / 255
    with torch.inference_mode():
        logits = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert logits.shape == (3, network.classes, found.height_px, found.width_px)
    assert logits.dtype == torch.float32
    expected = reference(network, asked, images)
    assert expected.unique().numel() > 1, "the images must tell classes apart"
    assert (logits.argmax(1) != expected).double().mean() < (5e-3 if network.dtype == "float16" else 1e-3)
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


def test_probabilities_are_those_of_the_network() -> None:
    network = Network(end="softmax")
    model = attached(probed(network), network.onnx())
    images = drawn_images(1, *SIZE)
    torch.testing.assert_close(model(images).softmax(1), network.scores(images).softmax(1), atol=1e-5, rtol=0)
    assert model.has_probabilities
    assert not attached(probed(Network(end="argmax")), Network(end="argmax").onnx()).has_probabilities


def test_what_is_found_can_be_overridden() -> None:
    network = Network(end="softmax")
    assert probed(network, {"gives": "logits"}).config.gives == "logits"
    decisions = " ".join(probed(network).decisions)
    assert "probabilities (--gives)" in decisions
    assert "nchw (--layout)" in decisions


def test_a_pickled_network_holds_no_bytes_of_it() -> None:
    network = Network()
    data = network.onnx() + b""
    model = Onnx(probed(network).config)
    model.attach(_Stored(data))
    images = drawn_images(1, *SIZE)
    before = model(images)
    sent = pickle.dumps(model)
    assert len(sent) < len(data) + 3000, "once, in what reads the files"
    torch.testing.assert_close(pickle.loads(sent)(images), before)


class _Stored:
    """Reads the files of a network that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __call__(self, name: str, sha256: str) -> bytes:
        return self._data


@pytest.mark.parametrize(
    ("network", "asked", "line"),
    [
        (Network(), {"input_size": None}, "takes images of any height or width: give --input-size HEIGHT WIDTH"),
        (Network(height=24, width=40), {"input_size": (24, 41)}, "input_size must be that of input 'picture'"),
        (Network(), {"classes": 5}, r"output 'result' has the shape \(1, 3, .*, which is 3 values .* are 5 classes"),
        (Network(end="argmax"), {"classes": 2}, "ids from 0 to 2, and the ids of the 2 classes are 0 to 1"),
        (
            Network(classes=2, end="sigmoid"),
            {"classes": 3},
            "1 values for each pixel, and there are 3|must be 2 classes",
        ),
        (Network(), {"layout": "nhwc"}, "layout must be nchw by the shape"),
        (Network(), {"output": "else"}, "output must be one of 'result', got 'else'"),
        (Network(), {"gives": "ids"}, "3 values for each pixel, and ids of classes would be one"),
        (Network(), {"scale": 1e38, "std": (1e-30, 1e-30, 1e-30)}, "not finite"),
        (Network(dtype="uint8"), {"scale": 0.5}, "takes uint8, so it must have no --mean, --std and --scale"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(network: Network, asked: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError, match=line):
        probed(network, asked)


def test_another_size_than_the_only_one_is_refused() -> None:
    network = Network(height=24, width=40)
    model = attached(probed(network), network.onnx())
    with pytest.raises(RequestError, match="takes images of 24 x 40 pixels only, got 24 x 48"):
        model(torch.rand(1, 3, 24, 48))


def rows_of(network: Network, **settings: Any) -> list[dict[str, Any]]:
    """The rows of two images by a task with these settings."""
    task = dataclasses.replace(TASK, height_px=SIZE[0], width_px=SIZE[1], **settings)
    data = [encoded(picture(*size), "PNG") for size in ((24, 40), (70, 90))]
    table = pa.table({"data": data, "format": ["object"] * 2, "label": [None] * 2}, INPUT_SCHEMA)
    prepared = task.prepare(table).drop_columns(["error"])
    with torch.inference_mode():
        return task.encode(
            task.predict(attached(probed(network), network.onnx()), prepared, torch.device("cpu"))
        ).to_pylist()


def test_ids_tell_nothing_about_confidence() -> None:
    for row in rows_of(Network(end="argmax")):
        assert row["mask"] is not None
        assert (row["confidence"], row["uncertainty"]) == (None, None)
    assert all(1 / 3 < row["confidence"] < 1 for row in rows_of(Network(end="softmax")))


def test_tiles_for_a_network_of_one_size() -> None:
    small, large = rows_of(Network(height=24, width=40, batch=2), resize="tile", tile_growth=1)
    assert (small["height"], small["width"], large["height"], large["width"]) == (24, 40, 70, 90)
    (alone,) = (row for row in rows_of(Network(), resize="tile", tile_growth=1) if row["height"] == 70)
    assert alone["class_pixels"] == large["class_pixels"], "tiles are the same, whatever goes in a pass"
