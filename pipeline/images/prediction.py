"""Prediction of masks: what the image segmentation task does on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.images import calibration, letterbox, novelty
from pipeline.images.feature_novelty import FeatureReference, features
from pipeline.images.masks import Masks, raw_mask
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.stitching import Rows, Tiling, tile_bands
from pipeline.images.strips import StripImage
from pipeline.images.upsampling import Bands, class_strips, in_bands
from pipeline.images.views import plain_view, with_views
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder
from pipeline.rows import binary_column, binary_values


class Settings(letterbox.Box, Protocol):
    """What prediction goes by: settings of `ImageSegmentation`, which describes them."""

    @property
    def resize(self) -> str: ...
    @property
    def tile_scale(self) -> float: ...
    @property
    def tta(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def usual_scale(self) -> float | None: ...
    @property
    def autoencoder(self) -> ImageReconstruction | None: ...
    @property
    def novelty_reference(self) -> FeatureReference | None: ...
    @property
    def masks(self) -> Masks: ...
    def tiling(self, height: int, width: int) -> Tiling: ...


def predict(task: Settings, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
    """`ImageSegmentation.predict`."""
    masks, sureness = [], []
    sizes = prepared.select(["height", "width", "valid_height", "valid_width"]).to_pylist()
    files = prepared["file"].to_pylist() if task.resize == "tile" else [None] * len(sizes)
    with torch.inference_mode(), _maps(task, model) as maps:
        for size, file, bands in zip(sizes, files, _bands(task, model, prepared, device), strict=True):
            sure = calibration.Sureness(task.temperature)
            shapes = (size["valid_height"], size["valid_width"]), (size["height"], size["width"])
            strips = class_strips(sure.passing(bands), *shapes)
            masks.append(task.masks.encoded_while_read(strips, shapes[1]) if file else raw_mask(strips))
            sureness.append(sure)
    is_sure = getattr(model, "has_probabilities", True)
    columns = {
        "mask": binary_column([mask for mask, _ in masks]),
        "class_pixels": pa.array([pixels for _, pixels in masks], pa.list_(pa.int64())),
        "height": prepared["height"],
        "width": prepared["width"],
        "confidence": pa.array([sure.confidence if is_sure else None for sure in sureness], pa.float32()),
        "uncertainty": pa.array([sure.uncertainty if is_sure else None for sure in sureness], pa.float32()),
        "scale": pa.array([appearing_scale(task, **size) for size in sizes], pa.float32()),
    }
    if task.novelty_reference is not None:
        raw = task.novelty_reference.raw(features(maps[plain_view(task.tta)], _filled(task, prepared)))
        ranks = task.novelty_reference.percentile(raw)
        columns |= {"novelty": pa.array(ranks, pa.float32()), "novelty_raw": pa.array(raw, pa.float32())}
    if task.autoencoder is not None:
        assert isinstance(model, SegmenterWithAutoencoder), "the task has an autoencoder's settings"
        found = task.autoencoder.predict(model.autoencoder, prepared, device)
        columns |= {name: found[name] for name, _ in novelty.COLUMNS}
    return pa.table(columns)


def _maps(task: Settings, model: nn.Module) -> AbstractContextManager[list[Tensor]]:
    """Collects the model's coarsest feature maps if novelty goes by them."""
    if task.novelty_reference is None:
        return nullcontext([])
    assert isinstance(model, Segmenter)
    return model.coarsest_maps()


def _filled(task: Settings, prepared: pa.Table) -> list[tuple[float, float]]:
    """The fractions of its box that each image fills."""
    return [(height / task.height_px, width / task.width_px) for height, width in filled_sizes(prepared)]


def _bands(task: Settings, model: nn.Module, prepared: pa.Table, device: torch.device) -> Iterator[Bands]:
    """The logits of each image."""
    logits = with_views(model, task.tta)
    sizes = zip(prepared["valid_height"].to_pylist(), prepared["valid_width"].to_pylist(), strict=True)
    if task.resize != "tile":
        found = logits(letterbox.unit(letterbox.images(prepared, task).to(device))).float()
        wanted = zip(prepared["height"].to_pylist(), prepared["width"].to_pylist(), strict=True)
        for one, (height, width), size in zip(found, sizes, wanted, strict=True):
            yield in_bands(one[:, :height, :width], *size)
    else:
        for index, (size, data) in enumerate(zip(sizes, binary_values(prepared["image"]), strict=True)):
            yield tile_bands(_rows(task, prepared, index, data, size), size, task.tiling(*size), logits, device)


def _rows(task: Settings, prepared: pa.Table, index: int, data: pa.Buffer, size: tuple[int, int]) -> Rows:
    """Reads rows of an image of `tiles.prepare`, whose column ``image`` has ``data``."""
    file = prepared["file"][index].as_py()
    if file is not None:
        whole = (prepared["height"][index].as_py(), prepared["width"][index].as_py())
        return StripImage(data, file, whole, task.tile_scale).rows
    pixels = np.frombuffer(data, np.uint8).reshape(*size, 3)
    return lambda start, stop: pixels[start:stop]


def appearing_scale(task: Settings, height: int, width: int, valid_height: int, valid_width: int) -> float | None:
    """How large things appear to the model, where 1 is as in training; None if that is not known."""
    if task.usual_scale is None:
        return None
    return max(valid_height / height, valid_width / width) / task.usual_scale


def filled_sizes(rows: pa.Table) -> list[tuple[int, int]]:
    """The height and the width that each image fills of its box."""
    return list(zip(rows["valid_height"].to_pylist(), rows["valid_width"].to_pylist(), strict=True))
