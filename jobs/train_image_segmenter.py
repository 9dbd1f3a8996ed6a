"""Train an image segmenter on a labelled folder, from scratch or starting from an autoencoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.cli import main
from jobs.console import say
from jobs.segmenter_baseline import PIXELS, compare, fit_pixels
from jobs.segmenter_recipe import recipe_of, stored, with_recipe
from jobs.training import TrainSettings, require_folder, train_package
from pipeline import config, models, package, storage
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.distributed.session import session
from pipeline.errors import RequestError
from pipeline.images.augment import AugmentConfig
from pipeline.images.labels import LabelRules, read_classes
from pipeline.images.losses import parse_loss
from pipeline.images.reconstruction import ImageReconstruction, carried_task
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.interface import EncoderConfig, Segmenter, init_from_autoencoder
from pipeline.models.segmenters.with_autoencoder import carry_autoencoder, init_from_segmenter, init_without_head
from pipeline.package import Package
from pipeline.source.labelled import held_out, split_files

_AUTOENCODER, _SEGMENTER = ImageReconstruction.kind, ImageSegmentation.kind
#: Factors on the learning rate of the weights that init gives.
_RATES = {"full": 1.0, "slow": 0.1, "frozen": 0.0}


@dataclass(frozen=True, kw_only=True)
class TrainImageSegmenter(TrainSettings):
    """Train an image segmenter on a labelled folder, from scratch or starting from an autoencoder."""

    images: str
    """Labelled folder with images/, labels/, classes.json, train.txt and optionally val.txt."""
    init: str | None = None
    """URI of a package whose weights the segmenter starts from: of an autoencoder, whose encoder is taken, or of a
    segmenter with the same architecture, which is taken whole, but for its head if its classes are others. null: random
    weights."""
    init_mode: Literal["full", "slow", "frozen"] = "full"
    """What becomes of the weights of init: full, they learn as all others; slow, with a tenth of the learning rate;
    frozen, they stay as they are."""
    novelty: str | None = None
    """URI of an autoencoder package that is stored with the segmenter and gives each row its novelty; null: none."""
    architecture: str = "unet"
    """Name of the network's architecture: unet, fcn, deeplabv3plus, light or vae_unet; or pixels, a gradient boosting
    of single pixels, as a baseline."""
    validation_split: str = "val"
    """Split by which the best weights are chosen; if it has no file, validation_fraction of the training split is used.
    """
    recipe: Literal["auto", "none"] = "auto"
    """auto: settings that are null, and those of augmentation and train that have their defaults, are chosen from the
    data, the time in minutes and the speed of this machine. The choice is printed, and stored in OUT/recipe.json.
    none: null stands for 180 x 240 pixels, fit, cross_entropy without class weights, and the network's own widths."""
    minutes: float = 30.0
    """For recipe auto: about how long the training should take on this machine, or on its GPU if it has one."""
    height_px: int | None = None
    """Height of the model's input in pixels."""
    width_px: int | None = None
    """Width of the model's input in pixels."""
    resize: Literal["fit", "tile", "stretch"] | None = None
    """fit: images are scaled to fit into the model's input and padded. tile: they are scaled by tile_scale, whatever
    their size, and cut into overlapping tiles of the input's size. stretch: they are scaled to exactly that size,
    without keeping their aspect."""
    tile_scale: float | None = None
    """For resize tile: factor by which images are scaled before they are cut, at most 1."""
    objective: str | None = None
    """cross_entropy, focal, ohem, dice or lovasz, or a sum of them, such as 'cross_entropy + 0.5 * dice'."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class's pixels in the loss."""
    baseline: Literal["pixels", "none"] = "pixels"
    """pixels: after the training, compare with a gradient boosting of single pixels on the validation samples, and warn
    if that is better. It takes about half a minute."""
    tta: Literal["none", "flip", "scales"] = "none"
    """Test-time augmentation of the finished model, which averages results: flip, of the image and its mirror image, at
    twice the time; scales, of both at 0.75, 1 and 1.25 times the size, at about seven times the time."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    width: int | None = None
    """Channels at 1/2 of the image's size, a multiple of 8; those at other resolutions are in the proportions of the
    network's defaults. null: see widths. Not together with widths."""
    widths: tuple[int, ...] | None = None
    """Channels at each resolution: at 1/2 of the image's size, at 1/4, and so on. null: those of init if it is given,
    or else the default of the network."""
    blocks: tuple[int, ...] | None = None
    """Number of residual blocks of the encoder at each resolution; null: as for widths."""
    model: dict[str, Any] = field(default_factory=dict)
    """Additional settings of the network, by name."""
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(epochs=60, batch_rows=8)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        config.check(self, "minutes", self.minutes > 0, "be positive")
        if self.objective is not None:
            parse_loss(self.objective)
        config.check(self, "init_mode", self.init is not None or self.init_mode == "full", "be full without init")
        alone = self.widths is None and "widths" not in self.model
        config.check(self, "width", self.width is None or alone, "not be given together with widths")


def work(settings: TrainImageSegmenter) -> dict[str, Any]:
    require_folder(settings.images, "images")
    train.claim(settings.out)
    start = None if settings.init is None else package.load(settings.init)
    if start is not None and start.kind not in (_AUTOENCODER, _SEGMENTER):
        rule = f"must be of kind {_AUTOENCODER!r} or {_SEGMENTER!r}"
        raise RequestError(f"model package at {settings.init} {rule}, got {start.kind!r}")
    carried = None if settings.novelty is None else package.load(settings.novelty, _AUTOENCODER)
    described = read_classes(settings.images)
    settings, recipe = _complete(settings, LabelRules(**described), start, carried)
    chosen = _given(settings, "height_px", "width_px", "resize", "tile_scale", "class_weights", "objective")
    task = ImageSegmentation(
        **described | chosen,
        tta=settings.tta,
        augmentation=settings.augmentation,
        autoencoder=None if carried is None else carried_task(carried.task, carried.uri),
    )
    is_network = settings.architecture != PIXELS
    if not is_network and (start is not None or carried is not None):
        raise RequestError("init and novelty are for networks, and architecture pixels is none")
    model = _model(settings, len(task.classes), start, carried)
    copies = _copies(settings, task, model, start, carried) if is_network else ()
    learned = split_files(settings.images, "train")
    if storage.exists(storage.join(settings.images, f"{settings.validation_split}.txt")):
        validation = split_files(settings.images, settings.validation_split)
    else:
        learned, validation = held_out(learned, settings.validation_fraction)

    training = Preparation(learned, task, settings.out, part=TRAINING)
    held = Preparation(validation, task, settings.out, part=VALIDATION)
    with session(settings.cluster), stored(settings.out, recipe):
        summary = train_package(
            settings,
            task=task,
            model_name=settings.architecture,
            model_config=model,
            train_config=settings.train,
            training=training,
            validation=held,
            data={"images": settings.images, "init": settings.init, "novelty": settings.novelty},
            copies=copies,
            fit=train.fit if is_network else fit_pixels,
        )
        if is_network and settings.baseline == PIXELS and summary.get("status", "done") == "done":
            summary |= {"baseline": compare(settings.out, task, summary["metrics"], training, held)}
    return summary


def _complete(
    settings: TrainImageSegmenter, rules: LabelRules, start: Package | None, carried: Package | None
) -> tuple[TrainImageSegmenter, dict[str, Any] | None]:
    """The settings with what a recipe chooses for those that were not given, and the recipe."""
    if settings.recipe == "none":
        return settings, None
    if carried is not None:
        # The novelty of an image is that of the same box.
        box = {name: carried.task[name] for name in ("height_px", "width_px")}
        settings = dataclasses.replace(settings, **{"resize": "fit", **box, **_given(settings, *box, "resize")})

    def network(width: int | None) -> dict[str, Any]:
        return _model(dataclasses.replace(settings, width=width or settings.width), len(rules.classes), start, carried)

    recipe = recipe_of(settings, split_files(settings.images, "train"), rules, network, _widths(settings, start))
    if recipe is None:
        return settings, None
    return with_recipe(settings, TrainImageSegmenter(images="", out=""), recipe["settings"]), recipe


def _widths(settings: TrainImageSegmenter, start: Package | None) -> list[int | None]:
    """The widths that a recipe may choose from; only None if the network is given; none if there is no network."""
    if settings.architecture == PIXELS:
        return []
    config_class = models.MODELS.get(settings.architecture, (None,))[0]
    is_given = start is not None or settings.width or settings.widths or {*settings.model} & {"widths"}
    if is_given or config_class is None or not issubclass(config_class, EncoderConfig):
        return [None]
    usual: int = config_class(classes=2).widths[0]  # type: ignore[call-arg]
    return [usual // 2, usual]


def _given(settings: TrainImageSegmenter, *names: str) -> dict[str, Any]:
    """The settings of these names that are not null."""
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def _model(
    settings: TrainImageSegmenter, classes: int, start: Package | None, carried: Package | None
) -> dict[str, Any]:
    """The settings of the network, after checking them."""
    known = models.names_of(Segmenter)
    if settings.architecture not in known:
        raise RequestError(f"architecture must be one of {', '.join(known)}, got {settings.architecture!r}")
    config_class = models.MODELS[settings.architecture][0]
    chosen = {"widths": settings.widths, "blocks": settings.blocks}
    given = {name: value for name, value in chosen.items() if value is not None} | settings.model
    if settings.width is not None:
        if not issubclass(config_class, EncoderConfig):
            raise RequestError(f"width is for networks with an encoder, and {settings.architecture} has none")
        given = config_class.of_width(settings.width) | given
    theirs = _inherited(settings, start, config_class)
    for name in (name for name in theirs if name in given):
        mine, wanted = (tuple(value) if isinstance(value, list) else value for value in (given[name], theirs[name]))
        if mine != wanted:
            owner = "autoencoder" if start is not None and start.kind == _AUTOENCODER else "package"
            raise RequestError(f"{config_class.__name__}.{name} must be the {owner}'s {wanted!r}, got {mine!r}")
    network = config.from_dict(config_class, {"classes": classes, **theirs, **given})
    return config.to_dict(network) | {"autoencoder": None if carried is None else carried.model_config}


def _inherited(settings: TrainImageSegmenter, start: Package | None, config_class: type) -> Mapping[str, Any]:
    """The settings of the network that the package of init decides."""
    if start is not None and start.model_name in models.IMPORTED:
        raise RequestError(f"init {start.uri!r} must be a network that was trained here, and it is an imported one")
    if start is None or (start.kind == _AUTOENCODER and not issubclass(config_class, EncoderConfig)):
        return {}
    if start.kind == _AUTOENCODER:
        return {name: start.model_config[name] for name in ("widths", "blocks")}
    if start.model_name != settings.architecture:
        rule = f"architecture must be {start.model_name!r}, as in the package of init"
        raise RequestError(f"{rule}, got {settings.architecture!r}")
    return {name: value for name, value in start.model_config.items() if name not in ("classes", "autoencoder")}


def _copies(
    settings: TrainImageSegmenter,
    task: ImageSegmentation,
    model: Mapping[str, Any],
    start: Package | None,
    carried: Package | None,
) -> tuple[train.CopyWeights, ...]:
    """What is copied into the new network. `RequestError` if something does not fit, or if nothing is left to learn."""
    new, copies = models.build(settings.architecture, model), []
    if start is not None:
        same = start.kind == _SEGMENTER and start.task["classes"] == list(task.classes)
        if same and settings.init_mode == "frozen":
            raise RequestError("init_mode frozen leaves nothing to learn, since the package of init has these classes")
        copy = init_from_segmenter if same else init_without_head
        copy = init_from_autoencoder if start.kind == _AUTOENCODER else copy
        copies.append(train.CopyWeights.of(start, copy, into=new, rate=_RATES[settings.init_mode]))
        if copy is init_without_head:
            say("the network's head begins anew, since the package of init has other classes")
    if carried is not None:
        copies.append(train.CopyWeights.of(carried, carry_autoencoder, into=new))
    return tuple(copies)


if __name__ == "__main__":
    main(TrainImageSegmenter, work)
