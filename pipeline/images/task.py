"""The image segmentation task: encoded images to tensors, and masks to rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import added, check
from pipeline.images import letterbox, metrics, novelty, outputs
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.inputs import NO_CLASS, Fitted, fit_label
from pipeline.images.labels import LabelRules
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder
from pipeline.noise import Noise
from pipeline.rows import InputKind
from pipeline.task import Task
from pipeline.training.losses import Batch, Loss, Statistics

# Number of float32 logits that are upsampled at a time; it bounds the memory.
_STRIP_VALUES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ImageSegmentation(Task):
    """Assigns a class to every pixel of an image."""

    classes: tuple[str, ...]
    """Names of the classes. The id of a class is its index in this list."""
    palette: tuple[tuple[int, int, int], ...]
    """Colour of each class: red, green, blue, 0 to 255."""
    ignore_index: int | None = None
    """Value in labels that marks pixels without a class; null: every pixel has a class."""
    height_px: int = 180
    """Height of the model's input in pixels; images are scaled to fit into it and padded."""
    width_px: int = 240
    """Width of the model's input in pixels."""
    max_pixels: int = 100_000_000
    """Largest number of pixels of an image. Larger images become error rows, before they are decoded."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of training images."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class's pixels in the loss; null: all pixels have the same weight."""
    autoencoder: ImageReconstruction | None = None
    """Settings for the autoencoder that the model carries, which gives each row's novelty; null: there is none."""
    labels: Literal["ids", "rgb"] = added("ids")
    """What the pixels of label files are: ids, values that are class ids; rgb, the colours of the palette."""
    ignore_color: tuple[int, int, int] | None = added(None)
    """Colour of pixels without a class in rgb labels; null: every pixel has a class."""

    kind: ClassVar[str] = "image_segmenter"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("miou", "max")
    inputs: ClassVar[InputKind] = letterbox.IMAGES
    result: ClassVar[str] = "mask"
    stored_as_is: ClassVar[tuple[str, ...]] = outputs.STORED_AS_IS
    truth_unit: ClassVar[str] = "pixel with a class"

    def __post_init__(self) -> None:
        check(self, "classes", 2 <= len(self.classes) <= 65_536, "be 2 to 65536 names")
        check(self, "classes", len(set(self.classes)) == len(self.classes), "have no name twice")
        check(self, "palette", len(self.palette) == len(self.classes), "have a colour for each class")
        check(self, "palette", all(0 <= value <= 255 for color in self.palette for value in color), "be 0 to 255")
        ok = self.ignore_index is None or not 0 <= self.ignore_index < len(self.classes)
        check(self, "ignore_index", ok, "not be the id of a class")
        letterbox.check_box(self)
        if self.autoencoder is not None:
            theirs, mine = ((box.height_px, box.width_px) for box in (self.autoencoder, self))
            check(self, "autoencoder", theirs == mine, f"see images in the same box of {mine[0]} x {mine[1]} pixels")
        if self.class_weights is not None:
            check(self, "class_weights", len(self.class_weights) == len(self.classes), "have a value for each class")
            check(self, "class_weights", min(self.class_weights) > 0, "be positive")

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                *letterbox.SIZES,
                ("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("class_pixels", pa.list_(pa.int64())),
                ("confidence", pa.float32()),
                ("uncertainty", pa.float32()),
                *novelty.COLUMNS,
            ]
        )

    @property
    def huggingface_features(self) -> dict[str, dict[str, str]]:
        """Hugging Face features of the columns for which the Arrow type is not enough."""
        return outputs.HUGGINGFACE_FEATURES

    @property
    def description(self) -> dict[str, Any]:
        """The names of the classes, their colours, and how the ids in a mask are read."""
        return outputs.described(self.classes, self.palette)

    @property
    def label_rules(self) -> LabelRules:
        """How label files of the training data say which class a pixel has."""
        return LabelRules(
            classes=self.classes,
            palette=self.palette,
            ignore_index=self.ignore_index,
            labels=self.labels,
            ignore_color=self.ignore_color,
        )

    def prepare(self, inputs: pa.Table) -> pa.Table:
        prepared = letterbox.prepare(self, inputs)
        return prepared if self.autoencoder is None else self.autoencoder.compressed(prepared)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Columns ``mask`` (class ids, uint8 or uint16, row by row), ``height``, ``width``, ``confidence`` and
        ``uncertainty``. The last two are means over the image at the model's resolution, before interpolation.

        If the model carries an autoencoder, also its ``novelty``, ``novelty_raw`` and ``embedding``.
        """
        image = letterbox.unit(letterbox.images(prepared, self).to(device))
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
        if self.autoencoder is not None:
            assert isinstance(model, SegmenterWithAutoencoder), "the task has an autoencoder's settings"
            found = self.autoencoder.predict(model.autoencoder, prepared, device)
            columns |= {name: found[name] for name, _ in novelty.COLUMNS}
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
        found |= {name: predicted[name] for name, _ in novelty.COLUMNS if name in predicted.column_names}
        return _table(self.schema, found, predicted.num_rows)

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """The columns of `prepare`, and ``label``: raw uint8 class ids in the box, 255 for pixels without a class."""
        self.label_rules.check()
        return letterbox.prepare(self, inputs, self._label)

    def truth(self, samples: pa.Table) -> dict[str, int]:
        """Pixels of each class, in the box."""
        counts = np.zeros(NO_CLASS + 1, np.int64)
        for label in samples["label"]:
            counts += np.bincount(np.frombuffer(label.as_buffer(), np.uint8), minlength=len(counts))
        return dict(zip(self.classes, counts.tolist(), strict=False))

    def collate(self, samples: pa.Table) -> Batch:
        """``image`` (b, 3, h, w) and ``label`` (b, h, w), both uint8; h and w are `height_px` and `width_px`."""
        return {
            "image": letterbox.images(samples, self),
            "label": letterbox.raw(samples["label"], self.height_px, self.width_px),
        }

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        image, label = augment_images(letterbox.unit(batch["image"]), batch["label"], self.augmentation, noise)
        assert label is not None
        return batch | {"image": image, "label": label}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """Cross entropy in nats, summed over the pixels that have a class. Units are these pixels, or their weights."""
        logits = model(letterbox.unit(batch["image"])).float()
        label = batch["label"].long()
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        total = F.cross_entropy(logits, label, weights, ignore_index=NO_CLASS, reduction="sum")
        known = label[label != NO_CLASS]
        units = (torch.ones_like(known) if weights is None else weights[known]).sum().float()
        return Loss(total=total, units=units)

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """The confusion matrix of the batch, at the model's resolution."""
        prediction = model(letterbox.unit(batch["image"])).argmax(1)
        return {"confusion": metrics.confusion_matrix(batch["label"], prediction, len(self.classes))}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        confusion = statistics["confusion"]
        iou = metrics.class_iou(confusion).tolist()
        named = {f"iou/{name}": value for name, value in zip(self.classes, iou, strict=True) if value == value}
        return {"miou": metrics.miou(confusion), "global_accuracy": metrics.global_accuracy(confusion), **named}

    def _label(self, data: bytes, fitted: Fitted) -> np.ndarray:
        label = self.label_rules.read(data, fitted.height, fitted.width)
        return fit_label(label, self.height_px, self.width_px)


def upsampled_argmax(logits: Float[Tensor, "b k h w"], height: int, width: int) -> Iterator[np.ndarray]:
    """For each image: the class with the largest logit after bilinear interpolation, (height, width) uint8 or uint16.

    Rows are interpolated in strips, so that memory is bounded for images of any size.
    """
    classes = logits.shape[1]
    kind = np.uint8 if classes <= 256 else np.uint16
    rows = _interpolation(logits.shape[2], height, logits.device)
    columns = _interpolation(logits.shape[3], width, logits.device)
    strip = max(1, _STRIP_VALUES // (classes * width))
    for image in logits:
        result = np.empty((height, width), kind)
        wide = _blend(image, columns, 2)
        for start in range(0, height, strip):
            values = _blend(wide, tuple(part[start : start + strip] for part in rows), 1)
            result[start : start + strip] = _argmax(values).cpu().numpy()
        yield result


def _argmax(values: Float[Tensor, "k h w"]) -> Tensor:
    """Index of the largest value along axis 0, the first if equal; on CPUs five times as fast as torch's argmax."""
    best = values[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8 if len(values) <= 256 else torch.int32, device=best.device)
    for index in range(1, len(values)):
        found.masked_fill_(values[index] > best, index)
        torch.maximum(best, values[index], out=best)
    return found


def _interpolation(size: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``wanted`` positions: two source positions and the second's weight. Pixel centres are aligned."""
    place = ((torch.arange(wanted, device=device, dtype=torch.float64) + 0.5) * size / wanted - 0.5).clamp(0, size - 1)
    first = place.floor().long()
    return first, (first + 1).clamp(max=size - 1), (place - first).float()


def _blend(values: Tensor, interpolation: tuple[Tensor, ...], axis: int) -> Tensor:
    first, second, weight = interpolation
    weight = weight.view([-1 if index == axis else 1 for index in range(values.ndim)])
    low = values.index_select(axis, first)
    return low.lerp(values.index_select(axis, second), weight)


def _same_sizes(rows: pa.Table) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Each distinct (height, width, valid height, valid width), with the indices of the rows that have it."""
    names = ("height", "width", "valid_height", "valid_width")
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(zip(*(rows[name].to_pylist() for name in names), strict=True)):
        groups.setdefault(size, []).append(index)
    yield from groups.items()


def _table(schema: pa.Schema, found: Mapping[str, Any], count: int) -> pa.Table:
    """A table with the columns of a schema; columns that were not found are null."""
    columns = []
    for item in schema:
        values = found.get(item.name)
        if values is None:
            values = pa.nulls(count, item.type)
        columns.append(pa.array(values, item.type) if isinstance(values, list) else values)
    return pa.table(columns, schema=schema)
