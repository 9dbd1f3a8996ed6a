"""Export a segmenter: write the network of a model package as an ONNX file, for other tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from pipeline import config, package, storage
from pipeline.config import check
from pipeline.exchange.export import INPUT, OUTPUT, check_exportable, exported, largest_difference
from pipeline.exchange.metadata import described
from pipeline.images.task import ImageSegmentation
from pipeline.storage import StorageConfig
from pipeline.table.lease import check_place


@dataclass(frozen=True, kw_only=True)
class ExportModel:
    """Write the network of an image segmenter's package as an ONNX file for images of any size, with its classes,
    colours and input size in the metadata, so that import_segmenter needs no more."""

    model: str
    """URI of the model package."""
    out: str
    """The ONNX file to write; an existing one is replaced."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "out", self.out.endswith(".onnx"), "end with .onnx")


def work(settings: ExportModel) -> dict[str, Any]:
    check_place(storage.canonical(settings.out).rpartition("/")[0], "out")
    found = package.load(settings.model, ImageSegmentation.kind)
    check_exportable(found.model_name)
    task, model = config.from_dict(ImageSegmentation, found.task), found.model()
    if task.autoencoder is not None:
        say("the autoencoder of the package, which gives novelty, is left out")
    if task.tta != "none":
        say(f"test-time augmentation ({task.tta}) is no part of the network; import_segmenter keeps it as a setting")
    say(f"exporting {found.model_name} with {len(task.classes)} classes")
    data = exported(model, described(task, found.digest))
    difference = largest_difference(model, data)
    say(f"ONNX Runtime gives the same logits, but for {difference:.1g}")
    storage.write(settings.out, data)
    return {
        "status": "done",
        "onnx": storage.canonical(settings.out),
        "bytes": len(data),
        "model": found.digest,
        "input": INPUT,
        "output": OUTPUT,
        "largest_difference": difference,
    }


if __name__ == "__main__":
    main(ExportModel, work)
