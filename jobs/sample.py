"""Sample images or sentences from an autoencoder: pictures or text for people, and a Parquet file of samples."""

from __future__ import annotations

import time
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from jobs.cli import main
from jobs.console import say
from jobs.sample_layers import sample_layers
from jobs.sample_text import sample_text
from pipeline import config, package, storage
from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.generation import drawing, fitting, keeping
from pipeline.generation import pictures as drawn_pictures
from pipeline.images.grids import encode_png, tile
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.regions import ImageRegions
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.samplers import (
    MixtureConfig,
    PriorConfig,
    Sampler,
    SamplerConfig,
    SamplerName,
    TwoStageConfig,
)
from pipeline.models.documents.writing import WritingConfig
from pipeline.package import Package
from pipeline.quality.pages import Page
from pipeline.rows import FailedInput, by_code
from pipeline.source.labelled import training_inputs
from pipeline.storage import StorageConfig
from pipeline.text.reconstruction import SentenceReconstruction

Picture = Literal["samples", "reconstructions", "interpolations", "traversals"]

_COLUMNS = 10
_PICTURED = 100  # samples in the grid of samples
_SHOWN = 20  # images in the grid of reconstructions, which are also the pairs of the interpolations
_STUDIED = 256  # images from which the channels to traverse are chosen
_HEADINGS = {
    "samples": "Samples",
    "reconstructions": "Images, and below each its reconstruction",
    "interpolations": "From image to image, {path} in the latents",
    "traversals": "The strongest channels of the first image's latents, from -2 to 2 deviations",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample images or sentences from an autoencoder: pictures or text for people, and a Parquet file of samples."""

    model: str
    """URI of the model package of an autoencoder of images or of sentences, or of a network of regions, whose layers
    are shown apart."""
    out: str
    """Folder for samples.parquet, the pictures, a page that shows them, and the fitted sampler; of sentences,
    samples.txt."""
    images: str | None = None
    """Images to reconstruct, to interpolate and to fit the sampler to; use the images of the training. A folder
    (if it has train.txt, only the images listed there), an archive or a Parquet file; null: sample the prior only."""
    sampler: SamplerName = "prior"
    """Distribution of the latents: prior; mixture, Gaussians fitted to latents of images; or two_stage, a second
    autoencoder of these latents. If the code is not Gaussian, the model was not trained towards the prior."""
    fitted: str | None = None
    """URI of a fitted sampler of this model from an earlier run (OUT/sampler); null: fit one."""
    count: int = 100
    """Number of samples in samples.parquet; pictures show up to 100 of them."""
    seed: int = 0
    """Seed of the samples, of the choice of images, and of the fit. A sample depends only on the seed and its index."""
    pictures: tuple[Picture, ...] | None = None
    """Pictures to write; null: all that are possible, which without images are only the samples."""
    fit_images: int = 20_000
    """Largest number of images to which the sampler is fitted; they are chosen at random."""
    path: drawn_pictures.Path = "spherical"
    """Path of interpolations between latents: along a great circle (spherical), or straight (linear)."""
    batch_rows: int = 64
    """Number of samples in one batch."""
    from_text: str | None = None
    """Sentence from which an autoencoder of sentences goes to that of to_text, step by step; null: no such way."""
    to_text: str | None = None
    """Sentence to which the way from from_text leads."""
    steps: int = 7
    """Number of sentences on that way, ends included."""
    paragraphs: int = 3
    """Number of paragraphs that an autoencoder of sentences writes."""
    sentences: int = 6
    """Number of sentences of each of these paragraphs."""
    writing: WritingConfig = field(default_factory=WritingConfig)
    """How an autoencoder of sentences writes a sentence from latents."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    two_stage: TwoStageConfig = field(default_factory=TwoStageConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        for name in ("count", "batch_rows", "sentences"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "paragraphs", self.paragraphs >= 0, "not be negative")
        check(self, "steps", self.steps >= 2, "be at least 2")
        check(
            self, "to_text", (self.from_text is None) == (self.to_text is None), "be given with from_text, or neither"
        )
        check(self, "fit_images", self.fit_images >= 2, "be at least 2")
        check(self, "seed", self.seed >= 0, "not be negative")
        check(self, "fitted", self.fitted is None or self.sampler != "prior", "be null for the prior")
        needed = [name for name in self.pictures or () if name != "samples"]
        if self.sampler != "prior" and self.fitted is None:
            needed.append(f"a sampler {self.sampler!r}")
        check(self, "images", self.images is not None or not needed, f"be given for {' and '.join(needed)}")

    def wanted(self) -> list[Picture]:
        """The pictures to write."""
        every: tuple[Picture, ...] = typing.get_args(Picture) if self.images is not None else ("samples",)
        return list(every if self.pictures is None else dict.fromkeys(self.pictures))


def work(settings: Sample) -> dict[str, Any]:
    started = time.monotonic()
    described = package.load(settings.model, ImageReconstruction.kind, ImageRegions.kind, SentenceReconstruction.kind)
    if described.kind == SentenceReconstruction.kind:
        return sample_text(settings, described)
    check(settings, "from_text", settings.from_text is None, "be null, if the model is not of sentences")
    if described.kind == ImageRegions.kind:
        return sample_layers(settings, described)
    task, model = config.from_dict(ImageReconstruction, described.task), described.model()
    assert isinstance(model, Autoencoder), described.model_name
    rows = None if settings.images is None else training_inputs(settings.images, ImageReconstruction.inputs)[0]
    failed: list[FailedInput] = []
    sampler, fitted_to = _sampler(settings, described, task, model, rows, failed)
    fitted = time.monotonic()
    say(f"drawing {settings.count} samples of {task.height_px} x {task.width_px} pixels")
    size = {"height": task.height_px, "width": task.width_px}
    drawn = drawing.draw_images(
        model, sampler, range(settings.count), seed=settings.seed, **size, batch_rows=settings.batch_rows
    )
    table = storage.join(settings.out, "samples.parquet")
    origin = {"seed": settings.seed, "sampler": settings.sampler, "model": described.digest}
    first = drawn_pictures.write_samples(table, drawn, keep=_PICTURED, **origin)
    wanted, channels = settings.wanted(), []
    grids = {"samples": tile(first, _COLUMNS)} if "samples" in wanted else {}
    if rows is not None and set(wanted) != {"samples"}:
        chosen = rows.take(_chosen(rows, _STUDIED, settings.seed))
        # Failed images that the fit has counted are not counted again.
        ignored: list[FailedInput] = [] if fitted_to else failed
        studied = drawn_pictures.study(task, model, chosen, shown=_SHOWN, seed=settings.seed, failed=ignored)
        for name in wanted:
            if name != "samples":
                grids[name] = drawn_pictures.grid(model, studied, name, settings.path)
        channels = drawn_pictures.legend(studied) if "traversals" in wanted else []
    return {
        "status": "done",
        **origin,
        "count": settings.count,
        "fitted_to": fitted_to,
        "failed": by_code(failed),
        "samples": table,
        **_write(settings, grids, channels),
        "fit_seconds": round(fitted - started, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def _chosen(rows: pa.Table, count: int, seed: int) -> np.ndarray:
    """Indices of at most ``count`` inputs, at random, since folders are often sorted by what their images show."""
    return np.random.default_rng(seed).permutation(rows.num_rows)[:count]


def _sampler(
    settings: Sample,
    described: Package,
    task: ImageReconstruction,
    model: Autoencoder,
    rows: pa.Table | None,
    failed: list[FailedInput],
) -> tuple[Sampler, int]:
    """The sampler, and the number of images to which it was fitted in this run."""
    shapes = model.latent_shapes(task.height_px, task.width_px)
    if settings.sampler == "prior":
        return fitting.build_sampler(PriorConfig(), shapes), 0
    if settings.fitted is not None:
        found = keeping.load(settings.fitted, described.digest)
        if keeping.name_of(found) != settings.sampler:
            rule = f"sampler at {settings.fitted} must be {settings.sampler!r}"
            raise RequestError(f"{rule}, got {keeping.name_of(found)!r}")
        return found, 0
    assert rows is not None, "checked with the settings"
    how: SamplerConfig = settings.mixture if settings.sampler == "mixture" else settings.two_stage
    # Sorted, since neighbouring inputs are often in the same container and are read together.
    chosen = rows.take(np.sort(_chosen(rows, settings.fit_images, settings.seed)))
    how.check_latents(shapes, chosen.num_rows)  # fails before the images are read
    say(f"reading {chosen.num_rows} images")
    found = drawn_pictures.latents_of_inputs(task, model, chosen, settings.seed, failed)
    say(f"fitting {settings.sampler} to the latents of {len(found[0])}")
    sampler = fitting.fit_sampler(how, found, settings.seed)
    keeping.save(storage.join(settings.out, "sampler"), sampler, model=described.digest, seed=settings.seed)
    return sampler, len(found[0])


def _write(settings: Sample, pictures: dict[str, np.ndarray], channels: list[dict[str, float]]) -> dict[str, Any]:
    """Write the pictures as files and on a page; returns their URIs."""
    encoded = {name: encode_png(picture) for name, picture in pictures.items()}
    page = Page(f"Samples: {settings.sampler}")
    for name, data in encoded.items():
        storage.write(storage.join(settings.out, f"{name}.png"), data)
        page.pictures(_HEADINGS[name].format(path=settings.path), [(f"{name}.png", data)])
    page.table("Channels traversed, from the top", channels)
    found = [storage.join(settings.out, f"{name}.png") for name in encoded]
    return {"pictures": found, "report": page.write(storage.join(settings.out, "report.html"))}


if __name__ == "__main__":
    main(Sample, work)
