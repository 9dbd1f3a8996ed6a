"""The image segmentation task: encoded images to tensors, and masks to rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeGuard

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline.config import added, check
from pipeline.images import calibration, letterbox, metrics, novelty, outputs, prediction, tiles
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.feature_novelty import FeatureReference
from pipeline.images.inputs import NO_CLASS, Fitted, fit_label
from pipeline.images.labels import LabelRules
from pipeline.images.losses import parse_loss, segmentation_loss
from pipeline.images.masks import Masks
from pipeline.images.novelty_trial import NoveltyTrial
from pipeline.images.prediction import filled_sizes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.stitching import Tiling
from pipeline.images.views import VIEWS, with_views
from pipeline.models.segmenters.interface import Segmenter
from pipeline.noise import Noise
from pipeline.rows import InputKind
from pipeline.task import Task
from pipeline.training.losses import Batch, Loss, Statistics

OTHER_SCALE = "other_scale"

_TILE_MULTIPLE_PX = 16


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
    objective: str = added("cross_entropy")
    """What training minimises: cross_entropy, focal, ohem, dice or lovasz, or a sum of them, such as
    cross_entropy + 0.5 * dice."""
    resize: Literal["fit", "tile", "stretch"] = added("fit")
    """fit: an image is scaled to fit into the model's input. tile: it is scaled by tile_scale, whatever its size, and
    cut into overlapping tiles of the model's input size, whose results are blended. stretch: it is scaled to exactly
    the model's input size, without keeping its aspect."""
    tile_scale: float = added(1.0)
    """For resize tile: factor by which images are scaled before they are cut, at most 1."""
    tile_overlap: float = added(0.25)
    """For resize tile: fraction of a tile that it shares with its neighbour, at least."""
    tile_growth: int = added(2)
    """For resize tile: how many times as high and as wide as the model's input a tile may be; 1 for networks that take
    one size only."""
    tta: Literal["none", "flip", "scales"] = added("none")
    """Test-time augmentation, which averages results: flip, of the image and its mirror image, at twice the time;
    scales, of both at 0.75, 1 and 1.25 times the size, at about seven times the time."""
    temperature: float = added(1.0)
    """Number by which logits are divided before they are probabilities. Training sets it on validation images, so that
    confidence is the fraction of pixels that are right."""
    usual_scale: float | None = added(None)
    """Median factor by which validation images were scaled; null: unknown. The column scale is relative to it."""

    novelty_reference: FeatureReference | None = added(None)
    """The features of training images, by which the novelty of an image is told; null: they do not tell it."""
    novelty_remark: str | None = added(None)
    """How well novelty tells strange images from others, or why it is null."""

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
        parse_loss(self.objective)
        check(self, "tile_scale", 0 < self.tile_scale <= 1, "be above 0 and at most 1")
        check(self, "tile_overlap", 0 <= self.tile_overlap <= 0.75, "be in [0, 0.75]")
        check(self, "tile_growth", self.tile_growth >= 1, "be at least 1")
        check(self, "tta", self.tta in VIEWS, f"be one of {', '.join(VIEWS)}")
        check(self, "temperature", self.temperature > 0, "be positive")
        ok = self.resize == "fit" or self.autoencoder is None
        check(self, "autoencoder", ok, "be null where images are cut into tiles or stretched (resize tile, stretch)")
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
                ("scale", pa.float32()),
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
    def masks(self) -> Masks:
        """How the masks that `predict` gives are read and encoded."""
        return Masks(classes=len(self.classes), palette=self.palette)

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

    def tiling(self, height: int, width: int) -> Tiling:
        """How an image of this size is cut. Tiles are up to `tile_growth` times as high and wide as in training, so
        fewer pixels are near their edges."""
        sides = (
            max(side, min(self.tile_growth * side, -(-size // _TILE_MULTIPLE_PX) * _TILE_MULTIPLE_PX))
            for side, size in ((self.height_px, height), (self.width_px, width))
        )
        return Tiling(height_px=next(sides), width_px=next(sides), overlap=self.tile_overlap)

    def prepare(self, inputs: pa.Table) -> pa.Table:
        if self.resize == "tile":
            return tiles.prepare(inputs, self.max_pixels, self.tile_scale)
        prepared = letterbox.prepare(self, inputs, stretch=self.resize == "stretch")
        return prepared if self.autoencoder is None else self.autoencoder.compressed(prepared)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Columns ``mask`` (class ids, uint8 or uint16, row by row), ``height``, ``width``, ``confidence``,
        ``uncertainty`` and ``scale``. Confidence and uncertainty are means over the image at the model's resolution,
        before interpolation; they are null if the model gives class ids and no probabilities. Of an image that is read
        in strips, ``mask`` is encoded already, and ``class_pixels``, which is null for the others, is counted.

        If the model carries an autoencoder, also its ``novelty``, ``novelty_raw`` and ``embedding``.
        """
        return prediction.predict(self, model, prepared, device)

    def encode(self, predicted: pa.Table) -> pa.Table:
        pictures, pixels = self.masks.encoded(predicted)
        found = {name: predicted[name] for name in ("height", "width", "confidence", "uncertainty", "scale")}
        found |= {"mask": pictures, "class_pixels": pixels}
        found |= {name: predicted[name] for name, _ in novelty.COLUMNS if name in predicted.column_names}
        return _table(self.schema, found, predicted.num_rows)

    def disagreement(self, predicted: pa.Table, other: pa.Table) -> float:
        """Share of the pixels of all images whose class is another."""
        return self.masks.disagreement(predicted, other)

    def unusual(self, rows: pa.Table) -> list[str]:
        """`OTHER_SCALE` for each image in which things look less than half or more than twice as large as usual."""
        found = rows["scale"].drop_null().to_numpy()
        return [OTHER_SCALE] * int(((found < 0.5) | (found > 2)).sum())

    def unusual_text(self, name: str) -> str:
        return {
            OTHER_SCALE: "are scaled so that things look less than half or more than twice as large as in training "
            "(column scale); a model that is trained with --resize tile sees all images at one scale"
        }[name]

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """The columns of `prepare`, and ``label``: raw uint8 class ids in the box, 255 for pixels without a class."""
        self.label_rules.check()
        if self.resize == "tile":
            tiling = Tiling(height_px=self.height_px, width_px=self.width_px, overlap=self.tile_overlap)
            return tiles.prepare_samples(inputs, self.max_pixels, self.tile_scale, tiling, self.label_rules)
        return letterbox.prepare(self, inputs, self._label, stretch=self.resize == "stretch")

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
        """The sum of `objective` over the pixels that have a class. Units are these pixels, or their weights.

        The penalties of the network, if it has any, are added for the same units.
        """
        assert isinstance(model, Segmenter)
        image = letterbox.unit(batch["image"])
        logits, penalties = model.training_outputs(image, lambda *shape: noise.normal(*shape, device=image.device))
        logits = logits.float()
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        total, units, logs = segmentation_loss(logits, batch["label"].long(), parse_loss(self.objective), weights)
        added = {name: (penalty * units).sum() for name, penalty in penalties.items()}
        return Loss(total=total + sum(added.values()), units=units.sum(), logs=logs | added)

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> ImageSegmentation:
        """With the temperature and the usual scale of the validation samples, and with what novelty needs."""
        scales: list[float] = []
        fit = calibration.TemperatureFit()
        trial = NoveltyTrial(model=model, tta=self.tta) if self._has_features(model) else None
        for rows in held_out:
            batch = self.collate(rows)
            image = letterbox.unit(batch["image"])
            sizes = rows.select(["height", "valid_height"]).to_pylist()
            scales += [size["valid_height"] / size["height"] for size in sizes]
            with torch.inference_mode():
                logits = trial.add_held_out(image, filled_sizes(rows)) if trial else with_views(model, self.tta)(image)
                fit.add(logits, batch["label"].long())
        if not scales:
            return self
        found = replace(self, temperature=fit.temperature(), usual_scale=float(np.median(scales)))
        if trial is None:
            return found
        for rows in learned if trial.has_enough_held_out else ():
            trial.add_learned(letterbox.unit(letterbox.images(rows, self)), filled_sizes(rows))
        reference, remark = trial.result(found.temperature)
        return replace(found, novelty_reference=reference, novelty_remark=remark)

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """The confusion matrix of the batch, at the model's resolution."""
        prediction = model(letterbox.unit(batch["image"])).argmax(1)
        return {"confusion": metrics.confusion_matrix(batch["label"], prediction, len(self.classes))}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        confusion = statistics["confusion"]
        iou = metrics.class_iou(confusion).tolist()
        named = {f"iou/{name}": value for name, value in zip(self.classes, iou, strict=True) if value == value}
        return {"miou": metrics.miou(confusion), "global_accuracy": metrics.global_accuracy(confusion), **named}

    @property
    def remarks(self) -> dict[str, str]:
        if self.autoencoder is not None:
            return self.autoencoder.remarks
        if self.novelty_remark is not None:
            return {"novelty": self.novelty_remark}
        why = "images are cut into tiles" if self.resize == "tile" else "the package has nothing that it goes by"
        return {"novelty": f"null: {why}"}

    def _has_features(self, model: nn.Module) -> TypeGuard[Segmenter]:
        """Whether novelty is to be told by the model's features."""
        is_alone = self.autoencoder is None and self.resize != "tile"
        return is_alone and isinstance(model, Segmenter) and model.has_encoder

    def _label(self, data: bytes, fitted: Fitted) -> np.ndarray:
        label = self.label_rules.read(data, fitted.height, fitted.width)
        return fit_label(label, self.height_px, self.width_px, stretch=self.resize == "stretch")


def _table(schema: pa.Schema, found: Mapping[str, Any], count: int) -> pa.Table:
    """A table with the columns of a schema; columns that were not found are null."""
    columns = []
    for item in schema:
        values = found.get(item.name)
        if values is None:
            values = pa.nulls(count, item.type)
        columns.append(pa.array(values, item.type) if isinstance(values, list) else values)
    return pa.table(columns, schema=schema)
