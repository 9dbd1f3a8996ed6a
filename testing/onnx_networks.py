"""Small ONNX networks, made operator by operator as no exporter of torch makes them, and the same in torch.

Each is a real convolution network: 3x3 convolution, ReLU, 1x1 convolution, with random weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from pipeline.exchange.probing import drawn_images

_WIDTH = 6
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


@dataclass(frozen=True, kw_only=True)
class Network:
    """How a network is made. `onnx` gives its file, and `scores` what it computes, by torch."""

    classes: int = 3
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    stride: int = 1
    """How much smaller than the input the output is."""
    multiple: int = 1
    """Number of which sides must be multiples: 1, or 8, since a skip connection does not fit otherwise."""
    end: Literal["logits", "softmax", "argmax", "argmax_flat", "sigmoid", "object_logit"] = "logits"
    brightness: float = 1.0
    """Largest value of the pixels that it is made for."""
    seed: int = 0
    weights: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        outputs = 1 if self.end in ("sigmoid", "object_logit") else self.classes
        shapes = {"first": (_WIDTH, 3, 3, 3), "last": (outputs, _WIDTH, 1, 1)}
        for name, shape in shapes.items():
            self.weights[name] = random.normal(0, 0.5, shape).astype(np.float32)
            self.weights[f"{name}.bias"] = random.normal(0, 0.3, shape[0]).astype(np.float32)
        seen = drawn_images(2, 48, 80) * self.brightness
        means = self.scores(seen).mean((0, 2, 3))  # so that no class is everywhere
        self.weights["last.bias"] -= means.numpy()

    def onnx(self, **changes: Any) -> bytes:
        """The bytes of the file."""
        return self.proto(**changes).SerializeToString()

    def proto(self, *, operator: str = "Relu", domain: str = "", opset: int = 17) -> Any:
        """The model. ``operator`` and ``domain``: what stands in the place of the ReLU."""
        nodes, last = self._body(operator, domain)
        nodes, last, kind = self._end(nodes, last)
        rows, columns = (None if side is None else side // self.stride for side in (self.height, self.width))
        shapes: dict[str, list[Any]] = {
            "logits": [self.batch or "n", self.weights["last"].shape[0], rows or "h2", columns or "w2"],
            "argmax_flat": [self.batch or "n", rows or "h2", columns or "w2"],
            "argmax": [self.batch or "n", 1, rows or "h2", columns or "w2"],
        }
        sides: list[Any] = shapes.get(self.end, shapes["logits"])
        if self.layout == "nhwc" and len(sides) == 4:
            nodes.append(helper.make_node("Transpose", [last], ["pixels"], perm=[0, 2, 3, 1]))
            last, sides = "pixels", [sides[0], *sides[2:], sides[1]]
        nodes.append(helper.make_node("Identity", [last], ["result"]))
        taken: list[Any] = [self.batch or "n", 3, self.height or "h", self.width or "w"]
        if self.layout == "nhwc":
            taken = [taken[0], *taken[2:], 3]
        graph = helper.make_graph(
            nodes,
            "segmenter",
            [helper.make_tensor_value_info("picture", _TYPES[self.dtype], taken)],
            [helper.make_tensor_value_info("result", kind, sides)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="by hand")

    def scores(self, pixels: Tensor) -> Tensor:
        """Logits, or the object's alone, (b, k, h, w) at the output's size, of prepared pixels (b, 3, h, w)."""
        weights = {name: torch.from_numpy(value) for name, value in self.weights.items()}
        x = F.conv2d(pixels.float(), weights["first"], weights["first.bias"], padding=1).relu()
        if self.multiple > 1:
            x = x + F.interpolate(F.max_pool2d(x, 8), scale_factor=8, mode="nearest")
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.conv2d(x, weights["last"], weights["last.bias"])

    def _body(self, operator: str, domain: str) -> tuple[list[Any], str]:
        make, nodes, last = helper.make_node, [], "picture"
        if self.dtype != "float32":
            nodes.append(make("Cast", [last], ["cast"], to=TensorProto.FLOAT))
            last = "cast"
        if self.layout == "nhwc":
            nodes.append(make("Transpose", [last], ["planes"], perm=[0, 3, 1, 2]))
            last = "planes"
        nodes.append(make("Conv", [last, "first", "first.bias"], ["x"], pads=[1, 1, 1, 1]))
        nodes.append(make(operator, ["x"], ["a"], domain=domain))
        last = "a"
        if self.multiple > 1:
            nodes.append(make("MaxPool", [last], ["small"], kernel_shape=[8, 8], strides=[8, 8]))
            scales = numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32))
            nodes.append(make("Constant", [], ["scales"], value=scales))
            nodes.append(make("Resize", ["small", "", "scales"], ["large"], mode="nearest"))
            nodes.append(make("Add", [last, "large"], ["sum"]))
            last = "sum"
        if self.stride > 1:
            sides = [self.stride, self.stride]
            nodes.append(make("AveragePool", [last], ["pooled"], kernel_shape=sides, strides=sides))
            last = "pooled"
        nodes.append(make("Conv", [last, "last", "last.bias"], ["scores"]))
        return nodes, "scores"

    def _end(self, nodes: list[Any], last: str) -> tuple[list[Any], str, int]:
        make = helper.make_node
        kind = TensorProto.FLOAT
        if self.end == "softmax":
            nodes, last = [*nodes, make("Softmax", [last], ["shares"], axis=1)], "shares"
        elif self.end == "sigmoid":
            nodes, last = [*nodes, make("Sigmoid", [last], ["share"])], "share"
        elif self.end.startswith("argmax"):
            keep = int(self.end == "argmax")
            nodes, last = [*nodes, make("ArgMax", [last], ["ids"], axis=1, keepdims=keep)], "ids"
            kind = TensorProto.INT64
        return nodes, last, kind


def with_external_data(proto: Any, location: str) -> tuple[bytes, bytes]:
    """The file with its weights outside of it, and the bytes of the file with the weights."""
    changed, data = onnx.ModelProto.FromString(proto.SerializeToString()), b""
    for tensor in changed.graph.initializer:
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(len(data))), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
        data += raw
    return changed.SerializeToString(), data
