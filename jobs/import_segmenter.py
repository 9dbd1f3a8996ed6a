"""Import a segmenter: make a model package of an ONNX segmentation network that was trained elsewhere."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.cli import main
from jobs.commands import program
from jobs.console import say
from pipeline import config, models, package, storage
from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.exchange.metadata import task_of
from pipeline.exchange.probing import Probed, ProbeRequest
from pipeline.exchange.trial import OnnxSource, read_onnx, try_onnx
from pipeline.images.labels import read_classes, read_classes_file
from pipeline.images.reconstruction import ImageReconstruction, carried_task
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.onnx import Gives, Layout
from pipeline.models.segmenters.with_autoencoder import carry_autoencoder
from pipeline.storage import StorageConfig
from pipeline.table.lease import check_place

_ARCHITECTURE = "onnx"
_MOST_SHIFT = 4.0  # of images in [0, 1]; larger means are those of pixels of 0 to 255


@dataclass(frozen=True, kw_only=True)
class ImportSegmenter:
    """Make a model package of an ONNX segmentation network that was trained elsewhere. It is tried on a drawn image;
    what the file does not say is found out, and printed."""

    onnx: str
    """The ONNX file. Files with its external data must lie beside it."""
    out: str
    """Folder for the model package."""
    classes: str | None = None
    """File that names the classes in the order of their ids, with their colours, like classes.json of a labelled
    folder; or such a folder. null: what the ONNX file says of itself, if export_model has made it."""
    input_size: tuple[int, int] | None = None
    """Height and width of the images that the network sees; needed if it takes any."""
    resize: Literal["fit", "tile", "stretch"] | None = None
    """fit: images are scaled to fit into the input size and padded. stretch: they are scaled to exactly that size,
    without keeping their aspect. tile: they are scaled by tile_scale, whatever their size, and cut into overlapping
    tiles of the input size. null: as the ONNX file says, or fit."""
    tile_scale: float | None = None
    """For resize tile: factor by which images are scaled before they are cut, at most 1."""
    scale: float | None = None
    """Factor on pixels of 0 to 255. null: 1/255, or 1 for a network that takes uint8."""
    mean: tuple[float, float, float] | None = None
    """What is subtracted from scaled pixels: of red, green and blue. null: nothing."""
    std: tuple[float, float, float] | None = None
    """By what they are then divided: of red, green and blue. null: nothing."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the network takes."""
    layout: Layout | None = None
    """Order of the input's axes: nchw or nhwc. null: by its shape and a trial."""
    output: str | None = None
    """Name of the output with the result. null: the first one that fits."""
    gives: Gives | None = None
    """What the output is: logits, probabilities, ids of classes, or of two classes the object_logit or the
    object_probability of the second. null: told from its values on the drawn image."""
    novelty: str | None = None
    """URI of an autoencoder package that is stored with the network and gives each row its novelty; it must see images
    of the same input size, by resize fit. null: none."""
    trial_timeout_s: float = 300.0
    """Seconds after which a trial counts as failed."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        sides = (1, 1) if self.input_size is None else self.input_size
        check(self, "input_size", min(sides) >= 1, "be two numbers of at least 1: height and width")
        check(self, "scale", self.scale is None or self.scale > 0, "be positive")
        check(self, "std", self.std is None or min(self.std) > 0, "be 3 positive numbers")
        is_unit = self.mean is None or self.scale is not None or max(map(abs, self.mean)) <= _MOST_SHIFT
        check(self, "mean", is_unit, "be that of images in [0, 1], or --scale 1 be given for one of pixels of 0 to 255")
        check(self, "trial_timeout_s", self.trial_timeout_s > 0, "be positive")


def work(settings: ImportSegmenter) -> dict[str, Any]:
    check_place(settings.out, "out")
    carried = None if settings.novelty is None else package.load(settings.novelty, ImageReconstruction.kind)
    seen = None if carried is None else carried_task(carried.task, carried.uri)
    described = None if settings.classes is None else _classes(settings.classes)
    source = read_onnx(settings.onnx, settings.trial_timeout_s)
    task = _described_task(settings, source, described)
    found = try_onnx(source, _request(settings, source, task), settings.trial_timeout_s)
    for decision in found.probed.decisions:
        say(decision)
    say(f"an image of {found.probed.height_px} x {found.probed.width_px} pixels takes {found.seconds:.2g} s here")
    task = _task(task, found.probed, seen)
    network = config.to_dict(found.probed.config) | {"autoencoder": None if carried is None else carried.model_config}
    model = models.build(_ARCHITECTURE, network)
    if carried is not None:
        carry_autoencoder(model, carried.model())
    digest = package.planned_digest(model_name=_ARCHITECTURE, model=model, task=task)
    if _is_there(settings.out, digest):
        say(f"{storage.canonical(settings.out)} has this network already")
    else:
        card = {"data": _origin(settings, source), "command": shlex.join([*program(), *sys.argv[1:]])}
        package.save(settings.out, model_name=_ARCHITECTURE, model=model, task=task, card=card, files=source.content)
    probed = found.probed.config
    return {
        "status": "done",
        "package": storage.canonical(settings.out),
        "model": digest,
        "classes": len(task.classes),
        "input_size": [task.height_px, task.width_px],
        "resize": task.resize,
        **{name: getattr(probed, name) for name in ("input", "dtype", "layout", "output", "gives", "multiple_px")},
        "batch_rows": probed.batch_rows,
        "seconds_per_image": round(found.seconds, 4),
    }


def _classes(uri: str) -> dict[str, Any]:
    if storage.is_folder(uri):
        return read_classes(uri)
    try:
        return read_classes_file(uri)
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"classes {uri!r}: there is no such file") from reason


def _described_task(
    settings: ImportSegmenter, source: OnnxSource, described: dict[str, Any] | None
) -> ImageSegmentation:
    """The task with the classes that are given, or else with all that the file says of itself."""
    text = source.summary.metadata
    if text is None and described is None:
        raise RequestError(f"onnx {source.uri!r} does not name its classes: give --classes FILE, like a classes.json")
    try:
        known = {} if text is None else config.to_dict(task_of(text))
    except RequestError as reason:
        raise RequestError(f"onnx {source.uri!r}: {reason}") from reason
    given = {name: getattr(settings, name) for name in ("resize", "tile_scale")}
    given = {name: value for name, value in given.items() if value is not None}
    return config.from_dict(ImageSegmentation, known | _settings_of(described) | given)


def _settings_of(described: dict[str, Any] | None) -> dict[str, Any]:
    """What a classes.json says, as settings; labels and colours without a class are not left from elsewhere."""
    return {} if described is None else {"labels": "ids", "ignore_color": None} | described


def _request(settings: ImportSegmenter, source: OnnxSource, task: ImageSegmentation) -> ProbeRequest:
    own = (task.height_px, task.width_px) if source.summary.metadata is not None else None
    return ProbeRequest(
        classes=len(task.classes),
        files=source.files,
        input_size=settings.input_size or own,
        order=settings.channels,
        scale=settings.scale,
        mean=settings.mean,
        std=settings.std,
        layout=settings.layout,
        output=settings.output,
        gives=settings.gives,
    )


def _task(task: ImageSegmentation, found: Probed, seen: ImageReconstruction | None) -> ImageSegmentation:
    """The task with the network's input size, and with what the autoencoder sees if it carries one."""
    size: dict[str, Any] = {"height_px": found.height_px, "width_px": found.width_px}
    if found.config.height_px is not None:
        size["tile_growth"] = 1
    if seen is not None:
        size["autoencoder"] = config.to_dict(seen)
    return config.from_dict(ImageSegmentation, config.to_dict(task) | size)


def _is_there(out: str, digest: str) -> bool:
    """Whether ``out`` has the package, whole. `RequestError` if it has another one, or a training."""
    is_trained = storage.exists(storage.join(out, "training.json"))
    if not is_trained and not storage.exists(storage.join(out, "config.json")):
        return False
    if is_trained or package.load(out).digest != digest:
        what = "a training" if is_trained else "another model package"
        raise RequestError(f"out {out!r} holds {what}; choose another")
    try:
        package.load(out).model()
    except RequestError:
        return False  # a file of it is gone, and is written again
    return True


def _origin(settings: ImportSegmenter, source: OnnxSource) -> dict[str, Any]:
    """What the card says about where the network is from."""
    sizes = {f"file {name}": f"{len(data):,} bytes" for name, data in source.content.items()}
    return {"onnx": source.uri, "classes": settings.classes, "novelty": settings.novelty, **sizes}


if __name__ == "__main__":
    main(ImportSegmenter, work)
