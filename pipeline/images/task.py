"""The image segmentation task: encoded images to tensors, and masks to rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeGuard

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import added, check
from pipeline.images import calibration, letterbox, metrics, novelty, outputs, tiles
from pipeline.images.augment import AugmentConfig, augment_images
from pipeline.images.feature_novelty import FeatureReference, features
from pipeline.images.inputs import NO_CLASS, Fitted, fit_label
from pipeline.images.labels import LabelRules
from pipeline.images.losses import parse_loss, segmentation_loss
from pipeline.images.masks import Masks, raw_mask
from pipeline.images.novelty_trial import NoveltyTrial
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.stitching import Rows, Tiling, tile_bands
from pipeline.images.strips import open_strips
from pipeline.images.upsampling import class_strips, in_bands
from pipeline.images.views import VIEWS, plain_view, with_views
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder
from pipeline.noise import Noise
from pipeline.rows import InputKind
from pipeline.task import Task
from pipeline.training.losses import Batch, Loss, Statistics

OTHER_SCALE = "other_scale"

_TILE_FACTOR = 2
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
    resize: Literal["fit", "tile"] = added("fit")
    """fit: an image is scaled to fit into the model's input. tile: it is scaled by tile_scale, whatever its size, and
    cut into overlapping tiles of the model's input size, whose results are blended."""
    tile_scale: float = added(1.0)
    """For resize tile: factor by which images are scaled before they are cut, at most 1."""
    tile_overlap: float = added(0.25)
    """For resize tile: fraction of a tile that it shares with its neighbour, at least."""
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
        check(self, "tta", self.tta in VIEWS, f"be one of {', '.join(VIEWS)}")
        check(self, "temperature", self.temperature > 0, "be positive")
        ok = self.resize == "fit" or self.autoencoder is None
        check(self, "autoencoder", ok, "be null where images are cut into tiles (resize tile)")
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
        """How an image of this size is cut. Tiles are up to twice as high and wide as in training, so fewer pixels are
        near their edges."""
        sides = (
            max(side, min(_TILE_FACTOR * side, -(-size // _TILE_MULTIPLE_PX) * _TILE_MULTIPLE_PX))
            for side, size in ((self.height_px, height), (self.width_px, width))
        )
        return Tiling(height_px=next(sides), width_px=next(sides), overlap=self.tile_overlap)

    def prepare(self, inputs: pa.Table) -> pa.Table:
        if self.resize == "tile":
            return tiles.prepare(inputs, self.max_pixels, self.tile_scale)
        prepared = letterbox.prepare(self, inputs)
        return prepared if self.autoencoder is None else self.autoencoder.compressed(prepared)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Columns ``mask`` (class ids, uint8 or uint16, row by row), ``height``, ``width``, ``confidence``,
        ``uncertainty`` and ``scale``. Confidence and uncertainty are means over the image at the model's resolution,
        before interpolation. Of an image that is read in strips, ``mask`` is encoded already, and ``class_pixels``,
        which is null for the others, is counted.

        If the model carries an autoencoder, also its ``novelty``, ``novelty_raw`` and ``embedding``.
        """
        found, sureness = [], []
        sizes = prepared.select(["height", "width", "valid_height", "valid_width"]).to_pylist()
        files = prepared["is_file"].to_pylist() if self.resize == "tile" else [False] * len(sizes)
        with torch.inference_mode(), self._maps(model) as maps:
            for size, is_file, bands in zip(sizes, files, self._bands(model, prepared, device), strict=True):
                sure = calibration.Sureness(self.temperature)
                shapes = (size["valid_height"], size["valid_width"]), (size["height"], size["width"])
                strips = class_strips(sure.passing(bands), *shapes)
                found.append(self.masks.encoded_while_read(strips, shapes[1]) if is_file else raw_mask(strips))
                sureness.append(sure)
        columns = {
            "mask": pa.array([mask for mask, _ in found], pa.large_binary()),
            "class_pixels": pa.array([pixels for _, pixels in found], pa.list_(pa.int64())),
            "height": prepared["height"],
            "width": prepared["width"],
            "confidence": pa.array([sure.confidence for sure in sureness], pa.float32()),
            "uncertainty": pa.array([sure.uncertainty for sure in sureness], pa.float32()),
            "scale": pa.array([self._scale(**size) for size in sizes], pa.float32()),
        }
        if self.novelty_reference is not None:
            raw = self.novelty_reference.raw(features(maps[plain_view(self.tta)], self._filled(prepared)))
            ranks = self.novelty_reference.percentile(raw)
            columns |= {"novelty": pa.array(ranks, pa.float32()), "novelty_raw": pa.array(raw, pa.float32())}
        if self.autoencoder is not None:
            assert isinstance(model, SegmenterWithAutoencoder), "the task has an autoencoder's settings"
            found = self.autoencoder.predict(model.autoencoder, prepared, device)
            columns |= {name: found[name] for name, _ in novelty.COLUMNS}
        return pa.table(columns)

    def encode(self, predicted: pa.Table) -> pa.Table:
        pictures, pixels = self.masks.encoded(predicted)
        found = {name: predicted[name] for name in ("height", "width", "confidence", "uncertainty", "scale")}
        found |= {"mask": pictures, "class_pixels": pixels}
        found |= {name: predicted[name] for name, _ in novelty.COLUMNS if name in predicted.column_names}
        return _table(self.schema, found, predicted.num_rows)

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
                logits = trial.add_held_out(image, _valid(rows)) if trial else with_views(model, self.tta)(image)
                fit.add(logits, batch["label"].long())
        if not scales:
            return self
        found = replace(self, temperature=fit.temperature(), usual_scale=float(np.median(scales)))
        if trial is None:
            return found
        for rows in learned:
            trial.add_learned(letterbox.unit(letterbox.images(rows, self)), _valid(rows))
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
        is_alone = self.autoencoder is None and self.resize == "fit"
        return is_alone and isinstance(model, Segmenter) and model.has_encoder

    def _maps(self, model: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """Collects the model's coarsest feature maps if novelty goes by them."""
        if self.novelty_reference is None:
            return nullcontext([])
        assert isinstance(model, Segmenter)
        return model.coarsest_maps()

    def _filled(self, prepared: pa.Table) -> list[tuple[float, float]]:
        """The fractions of its box that each image fills."""
        return [(height / self.height_px, width / self.width_px) for height, width in _valid(prepared)]

    def _bands(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> Iterator[Iterator[Tensor]]:
        """The logits of each image, in bands of rows (k, rows, w)."""
        logits = with_views(model, self.tta)
        sizes = zip(prepared["valid_height"].to_pylist(), prepared["valid_width"].to_pylist(), strict=True)
        if self.resize == "fit":
            found = logits(letterbox.unit(letterbox.images(prepared, self).to(device))).float()
            wanted = zip(prepared["height"].to_pylist(), prepared["width"].to_pylist(), strict=True)
            for one, (height, width), size in zip(found, sizes, wanted, strict=True):
                yield in_bands(one[:, :height, :width], *size)
        else:
            for image, is_file, size in zip(prepared["image"], prepared["is_file"].to_pylist(), sizes, strict=True):
                yield tile_bands(self._rows(image, size, is_file), size, self.tiling(*size), logits, device)

    def _rows(self, image: pa.Scalar, size: tuple[int, int], is_file: bool) -> Rows:
        """Reads rows of an image of `tiles.prepare`."""
        if is_file:
            large = open_strips(image.as_py(), self.max_pixels, self.tile_scale)
            assert large is not None, "it was opened when it was prepared"
            return large.rows
        pixels = np.frombuffer(image.as_buffer(), np.uint8).reshape(*size, 3)
        return lambda start, stop: pixels[start:stop]

    def _scale(self, height: int, width: int, valid_height: int, valid_width: int) -> float | None:
        """How large things appear to the model, where 1 is as in training; None if that is not known."""
        if self.usual_scale is None:
            return None
        return max(valid_height / height, valid_width / width) / self.usual_scale

    def _label(self, data: bytes, fitted: Fitted) -> np.ndarray:
        label = self.label_rules.read(data, fitted.height, fitted.width)
        return fit_label(label, self.height_px, self.width_px)


def _valid(rows: pa.Table) -> list[tuple[int, int]]:
    return list(zip(rows["valid_height"].to_pylist(), rows["valid_width"].to_pylist(), strict=True))


def _table(schema: pa.Schema, found: Mapping[str, Any], count: int) -> pa.Table:
    """A table with the columns of a schema; columns that were not found are null."""
    columns = []
    for item in schema:
        values = found.get(item.name)
        if values is None:
            values = pa.nulls(count, item.type)
        columns.append(pa.array(values, item.type) if isinstance(values, list) else values)
    return pa.table(columns, schema=schema)
