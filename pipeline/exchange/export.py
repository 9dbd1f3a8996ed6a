"""Writes our segmenters as ONNX files for images of any height and width, any number at a time."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import JobFailed, RequestError
from pipeline.exchange.probing import drawn_images
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.onnx import OnnxConfig, OnnxFile, new_session
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder

INPUT, OUTPUT = "image", "logits"
_OPSET = 18
_EXAMPLE = (2, 88, 120)  # images, height, width: what the export is traced with
_SIZES = ((1, 64, 96), (3, 75, 101))  # what the file is tried with
_MOST_DIFFERENCE = 1e-2
#: Architectures that are no networks of layers.
_NOT_EXPORTED = {
    "pixels": "are trees, which become a program of thousands of operators",
    "onnx": "are imported networks, whose ONNX file lies in the folder files of the package already",
}


def check_exportable(architecture: str) -> None:
    """`RequestError` if segmenters of an architecture cannot be exported."""
    if architecture in _NOT_EXPORTED:
        raise RequestError(
            f"models of architecture {architecture} cannot be exported: they {_NOT_EXPORTED[architecture]}"
        )


def exported(model: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of a segmenter: from ``image``, float32 (b, 3, h, w) in [0, 1], to ``logits`` (b, k, h, w).

    An autoencoder that the segmenter carries is left out. Height and width may have any value; whatever padding the
    network needs is inside. `RequestError` if the package onnx or onnxscript is not installed, `JobFailed` if torch
    cannot export the network.
    """
    _require_packages()
    import onnx

    network = model.segmenter if isinstance(model, SegmenterWithAutoencoder) else model
    count, height, width = _EXAMPLE
    dynamic = torch.export.Dim.DYNAMIC
    with tempfile.TemporaryDirectory(prefix="parquetry-onnx-") as folder, _quiet():
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                network.eval(),
                (drawn_images(count, height, width),),
                file,
                dynamo=True,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as reason:
            raise JobFailed(f"torch cannot export a {type(network).__name__} as ONNX") from reason
        proto = onnx.load(file)
    _name_axes(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    proto.producer_name = "parquetry"
    return proto.SerializeToString(deterministic=True)


def largest_difference(model: nn.Module, data: bytes) -> float:
    """How far the logits of an exported file are from the model's, on images of two sizes.

    `JobFailed` if that is more than rounding.
    """
    assert isinstance(model, Segmenter)
    settings = OnnxConfig(
        classes=model.classes, files=(OnnxFile(name="model.onnx", sha256=""),), input=INPUT, output=OUTPUT
    )
    session = new_session([data], settings, torch.device("cpu"))
    worst = 0.0
    for size in _SIZES:
        images = drawn_images(*size)
        with torch.inference_mode():
            expected = model.eval()(images)
        found: Tensor = torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
        worst = max(worst, float((expected - found).abs().max() / expected.abs().max().clamp(min=1.0)))
    if not worst <= _MOST_DIFFERENCE:
        raise JobFailed(f"the exported file gives other logits than the model: they differ by {worst:.2g}")
    return worst


def _name_axes(proto: Any) -> None:
    """Give the free axes of input and output their names, in place of the exporter's numbers."""
    shapes = {item.name: item.type.tensor_type.shape.dim for item in (*proto.graph.input, *proto.graph.output)}
    names = dict(zip((shapes[INPUT][axis].dim_param for axis in (0, 2, 3)), ("batch", "height", "width"), strict=True))
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim):
        if dim.dim_param in names:
            dim.dim_param = names[dim.dim_param]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints and warns about, such as packages that it does not need."""
    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(loud)


def _require_packages() -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as reason:
        raise RequestError(
            "an export needs the packages onnx and onnxscript: pip install 'parquetry[onnx]'"
        ) from reason
    del onnx
