"""The commands: what each is called, what it does in a line, and which of its settings people use first.

The command ``segment-images`` is the module ``jobs.segment_images``, with its settings and its function ``work``. This
module and those that describe commands (`jobs.options`, `jobs.arguments`, `jobs.help`, `jobs.completion`) do not import
torch, Ray or jsonargparse, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

_TRAIN = ("train.epochs", "train.batch-rows", "train.learning-rate", "train.workers", "train.gpu")
_SEGMENT = ("dry-run", "limit", "compare", "retry-errors", "max-error-rate")
_STREAM = ("stream.device", "stream.actors", "stream.batch-rows", "storage.endpoint-url", "cluster.address")


@dataclass(frozen=True, kw_only=True)
class Command:
    settings: str
    """Name of the settings class in the command's module."""
    summary: str
    """What the command does, for the list of commands."""
    first: tuple[str, ...]
    """Options that ``--help`` shows, besides those that are required; ``--help-all`` shows all."""


COMMANDS: dict[str, Command] = {
    "train-autoencoder": Command(
        settings="TrainAutoencoder",
        summary="train an autoencoder on images",
        first=(
            "architecture",
            "task.height-px",
            "task.width-px",
            "task.objective.terms",
            "model.latent",
            "model.latent-channels",
            *_TRAIN,
        ),
    ),
    "train-image-segmenter": Command(
        settings="TrainImageSegmenter",
        summary="train an image segmenter on a labelled folder",
        first=("init", "novelty", "height-px", "width-px", "class-weights", *_TRAIN),
    ),
    "train-text-segmenter": Command(
        settings="TrainTextSegmenter",
        summary="train a paragraph segmenter on documents",
        first=("init", "split", "model.recurrent-members", "model.attention-members", *_TRAIN),
    ),
    "train-text-autoencoder": Command(
        settings="TrainTextAutoencoder",
        summary="train an autoencoder of sentences on documents, without labels",
        first=("split", "model.vocabulary", "model.latents", "task.word-dropout", "task.free-nats", *_TRAIN),
    ),
    "train-classifier": Command(
        settings="TrainClassifier",
        summary="train a classifier of images on an autoencoder's latents",
        first=("unlabelled", "views", "movement", "fit.steps", "seed", "validation-fraction"),
    ),
    "train-image-regions": Command(
        settings="TrainImageRegions",
        summary="train a network that divides images into regions, without labels",
        first=("height-px", "width-px", "model.slots", "model.sigma", "beta", "blended", *_TRAIN),
    ),
    "segment-images": Command(
        settings="SegmentImages",
        summary="write a mask for every image of a source",
        first=(*_SEGMENT, "max-pixels", *_STREAM),
    ),
    "segment-documents": Command(
        settings="SegmentDocuments",
        summary="write the paragraphs of every document",
        first=(*_SEGMENT, "granularity", "max-paragraph-chars", *_STREAM),
    ),
    "classify": Command(
        settings="Classify",
        summary="write the class of every image of a source",
        first=("dry-run", "limit", "retry-errors", "max-error-rate", "max-pixels", *_STREAM),
    ),
    "sample": Command(
        settings="Sample",
        summary="sample images or sentences from an autoencoder",
        first=(
            "images",
            "sampler",
            "fitted",
            "count",
            "seed",
            "pictures",
            "path",
            "from-text",
            "to-text",
            "paragraphs",
        ),
    ),
    "evaluate": Command(
        settings="Evaluate",
        summary="evaluate a package on labelled data",
        first=("group", "out", "storage.endpoint-url"),
    ),
    "convert-labels": Command(
        settings="ConvertLabels",
        summary="turn coloured labels and masks into class ids",
        first=("classes",),
    ),
    "import-segmenter": Command(
        settings="ImportSegmenter",
        summary="make a model package of an ONNX network from elsewhere",
        first=("classes", "input-size", "resize", "scale", "mean", "std", "channels", "storage.endpoint-url"),
    ),
    "export-model": Command(
        settings="ExportModel",
        summary="write the network of a model package as an ONNX file",
        first=("storage.endpoint-url",),
    ),
    "nightly": Command(
        settings="Nightly",
        summary="segment what is new in several sources, unattended",
        first=("only", "deadline", "since", "until", "dry-run", "webhook"),
    ),
    "accept": Command(
        settings="Accept",
        summary="make the rows of a pilot the current ones",
        first=("storage.endpoint-url",),
    ),
    "restore": Command(
        settings="Restore",
        summary="make a table what it was before a run",
        first=("storage.endpoint-url",),
    ),
    "forget": Command(
        settings="Forget",
        summary="remove inputs from a table, and their bytes from its files",
        first=("where", "gone", "storage.endpoint-url"),
    ),
    "status": Command(
        settings="Status",
        summary="show what is going on at a sink",
        first=("storage.endpoint-url",),
    ),
    "export": Command(
        settings="Export",
        summary="write a table in a form that other tools read",
        first=("where", "limit", "background", "polygons", "storage.endpoint-url"),
    ),
    "label-queue": Command(
        settings="LabelQueue",
        summary="choose the images most worth labelling, for Label Studio and CVAT",
        first=("count", "where", "without", "background", "images", "storage.endpoint-url"),
    ),
    "merge-labels": Command(
        settings="MergeLabels",
        summary="merge corrected labels into a labelled folder",
        first=("fill", "storage.endpoint-url"),
    ),
    "verify": Command(
        settings="Verify",
        summary="check that a table is complete and sound",
        first=("repair", "vacuum", "retention-days", "storage.endpoint-url"),
    ),
    "compact": Command(
        settings="Compact",
        summary="join the small files of a table to larger ones",
        first=("target-bytes", "storage.endpoint-url"),
    ),
    "demo": Command(
        settings="Demo",
        summary="train and segment on this machine, with pictures",
        first=("out", "images", "documents", "cluster.cpus"),
    ),
}

#: Options that hold a path or a URI: a leading ``~`` in them is the home directory, and shells complete file names.
PATHS = frozenset(
    {
        *("classes", "data", "documents", "fitted", "images", "init", "into", "labels", "model", "novelty", "onnx"),
        *("out", "queue", "sink", "source", "unlabelled", "without"),
    }
)


def module_of(command: str) -> str:
    """The name of a command's module."""
    return f"jobs.{command.replace('-', '_')}"


def command_of(settings: type) -> str:
    """The name of the command that has these settings."""
    return next((name for name, command in COMMANDS.items() if command.settings == settings.__name__), "")


def program() -> list[str]:
    """The words that start this process again, without its arguments: ``parquetry``, or ``python -m jobs.verify``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:  # a script, such as the one that an installation makes
        return [os.path.basename(sys.argv[0])]
    return ["python", "-m", spec.name.removesuffix(".__main__")]
