"""Image tasks: rows of encoded images to tensors, and masks or reconstructions back to rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import InputError, RequestError
from pipeline.images import inputs, metrics, outputs
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.task import Batch, Loss, Noise, Statistics, Task

# Floats that hold upsampled logits at one time.
_STRIP_VALUES = 16 * 1024 * 1024

_SIZES = [("height", pa.int32()), ("width", pa.int32())]
_BOXED = [("image", pa.large_binary()), *_SIZES, ("valid_height", pa.int32()), ("valid_width", pa.int32())]


@dataclass(frozen=True, kw_only=True)
class ImageSegmentation(Task):
    """A class for every pixel of an image."""

    classes: tuple[str, ...]
    """Names of the classes; a class id is a place in this list."""
    palette: tuple[tuple[int, int, int], ...]
    """A colour for each class, red, green, blue, 0 to 255."""
    ignore_index: int | None = None
    """Label value of pixels without a class."""
    height_px: int = 180
    """Height of the box that the model sees an image in."""
    width_px: int = 240
    """Width of that box."""
    max_pixels: int = 100_000_000
    """Images with more pixels become errors before they are decoded."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of training images."""
    class_weights: tuple[float, ...] | None = None
    """Weight of a pixel of each class in the loss."""

    kind: ClassVar[str] = "image_segmenter"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("miou", "max")

    def __post_init__(self) -> None:
        check(self, "classes", 2 <= len(self.classes) <= 65_536, "be 2 to 65536 names")
        check(self, "classes", len(set(self.classes)) == len(self.classes), "have no name twice")
        check(self, "palette", len(self.palette) == len(self.classes), "have a colour for each class")
        check(self, "palette", all(0 <= value <= 255 for color in self.palette for value in color), "be 0 to 255")
        ok = self.ignore_index is None or not 0 <= self.ignore_index < len(self.classes)
        check(self, "ignore_index", ok, "not be the id of a class")
        _check_box(self)
        if self.class_weights is not None:
            check(self, "class_weights", len(self.class_weights) == len(self.classes), "have a value for each class")
            check(self, "class_weights", min(self.class_weights) > 0, "be positive")

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                *_SIZES,
                ("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("class_pixels", pa.list_(pa.int64())),
                ("confidence", pa.float32()),
                ("uncertainty", pa.float32()),
                ("novelty", pa.float32()),
                ("novelty_raw", pa.float32()),
                ("embedding", pa.list_(pa.float32())),
            ]
        )

    @property
    def features(self) -> dict[str, dict[str, str]]:
        """Hugging Face features of columns whose Arrow type does not tell them."""
        return {"mask": {"_type": "Image"}}

    def prepare(self, inputs: pa.Table) -> pa.Table:
        return _prepare(self, inputs)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Columns ``mask`` (class ids, uint8 or uint16, row by row), ``height``, ``width``, ``confidence`` and
        ``uncertainty``; the last two are means over the image at the model's resolution, before interpolation."""
        image = _unit(_images(prepared, self).to(device))
        with torch.inference_mode():
            logits = model(image).float()
            masks: list[bytes] = [b""] * prepared.num_rows
            sureness = torch.empty(2, prepared.num_rows)
            for (height, width, *valid), rows in _same_sizes(prepared):
                inside = logits[rows, :, : valid[0], : valid[1]]
                for row, mask in zip(rows, upsampled_argmax(inside, height, width), strict=True):
                    masks[row] = mask.tobytes()
                log_probability = inside.log_softmax(1)
                probability = log_probability.exp()
                sureness[0, rows] = probability.amax(1).mean((1, 2)).cpu()
                sureness[1, rows] = -(probability * log_probability).sum(1).mean((1, 2)).cpu()
        columns = {
            "mask": pa.array(masks, pa.large_binary()),
            "height": prepared["height"],
            "width": prepared["width"],
            "confidence": pa.array(sureness[0].numpy()),
            "uncertainty": pa.array(sureness[1].numpy()),
        }
        return pa.table(columns)

    def encode(self, predicted: pa.Table) -> pa.Table:
        count = len(self.classes)
        kind = np.uint8 if count <= 256 else np.uint16
        sizes = zip(predicted["height"].to_pylist(), predicted["width"].to_pylist(), strict=True)
        pictures, pixels = [], []
        for mask, size in zip(predicted["mask"], sizes, strict=True):
            ids = np.frombuffer(mask.as_buffer(), kind).reshape(size)
            pictures.append({"bytes": outputs.encode_mask(ids, self.palette), "path": None})
            pixels.append(np.bincount(ids.ravel(), minlength=count))
        found = {name: predicted[name] for name in ("height", "width", "confidence", "uncertainty")}
        found |= {"mask": pictures, "class_pixels": pixels}
        return _table(self.schema, found, predicted.num_rows)

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """The columns of `prepare`, and ``label``: raw uint8 in the box, 255 where there is no class."""
        if len(self.classes) > inputs.NO_CLASS:
            raise RequestError(f"labels of 8 bits name 255 classes at most, ImageSegmentation.classes has {len(self.classes)}")
        return _prepare(self, inputs, self._label)

    def collate(self, samples: pa.Table) -> Batch:
        """``image`` (b, 3, h, w) and ``label`` (b, h, w), uint8; h and w are the box's."""
        return {
            "image": _images(samples, self),
            "label": _raw(samples["label"], self.height_px, self.width_px),
        }

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        image, label = augment_images(_unit(batch["image"]), batch["label"], self.augmentation, noise)
        assert label is not None
        return batch | {"image": image, "label": label}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """Cross entropy, in nats, summed over the pixels that have a class; units are those pixels, or their weight."""
        logits = model(_unit(batch["image"])).float()
        label = batch["label"].long()
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        total = F.cross_entropy(logits, label, weights, ignore_index=inputs.NO_CLASS, reduction="sum")
        known = label[label != inputs.NO_CLASS]
        units = (torch.ones_like(known) if weights is None else weights[known]).sum().float()
        return Loss(total=total, units=units)

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """One confusion matrix, at the model's resolution."""
        prediction = model(_unit(batch["image"])).argmax(1)
        return {"confusion": metrics.confusion_matrix(batch["label"], prediction, len(self.classes))}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        confusion = statistics["confusion"]
        iou = metrics.class_iou(confusion).tolist()
        named = {f"iou/{name}": value for name, value in zip(self.classes, iou, strict=True) if value == value}
        return {"miou": metrics.miou(confusion), "global_accuracy": metrics.global_accuracy(confusion), **named}

    def _label(self, data: bytes, fitted: inputs.Fitted) -> np.ndarray:
        label = inputs.decode_label(data, fitted.height, fitted.width)
        unknown = label >= len(self.classes)
        if self.ignore_index is not None:
            unknown &= label != self.ignore_index
        if unknown.any():
            raise InputError("bad_label", f"the label has the value {label[unknown].min()}, which is no class")
        label[label >= len(self.classes)] = inputs.NO_CLASS
        return inputs.fit_label(label, self.height_px, self.width_px)
