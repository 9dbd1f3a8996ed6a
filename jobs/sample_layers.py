"""What `sample` does with a network of layers: scenes drawn from the prior, and images taken apart."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np

from jobs.console import say
from pipeline import config, storage
from pipeline.errors import RequestError
from pipeline.generation import pictures
from pipeline.generation.layers import draw_scenes, layer_grid, taken_apart
from pipeline.images.grids import encode_png
from pipeline.images.regions import ImageRegions
from pipeline.models.regions.slot_vae import Layers, SlotVAE
from pipeline.package import Package
from pipeline.quality.pages import Page
from pipeline.rows import FailedInput, by_code
from pipeline.source.labelled import training_inputs

_SHOWN = 12
_HEADINGS = {
    "samples": "Scenes drawn from the prior: all layers together, and each layer where its mask is",
    "layers": "Images, their layers together, and each layer where its mask is",
}


class Settings(Protocol):
    """The settings of `sample` that count here."""

    @property
    def out(self) -> str: ...
    @property
    def images(self) -> str | None: ...
    @property
    def sampler(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def pictures(self) -> tuple[str, ...] | None: ...
    @property
    def batch_rows(self) -> int: ...


def sample_layers(settings: Settings, described: Package) -> dict[str, Any]:
    """Write ``samples.parquet`` and the pictures; returns the summary. `RequestError` if the settings ask for more."""
    if settings.sampler != "prior" or (settings.pictures or ("samples",)) != ("samples",):
        rule = "a network of layers has the sampler prior, and the pictures samples and layers (with --images)"
        raise RequestError(f"model {described.uri!r}: {rule}")
    started = time.monotonic()
    task, model = config.from_dict(ImageRegions, described.task), described.model()
    assert isinstance(model, SlotVAE), described.model_name
    size = {"height": task.height_px, "width": task.width_px}
    say(f"drawing {settings.count} scenes of {task.height_px} x {task.width_px} pixels")
    first: list[Layers] = []
    scenes = draw_scenes(model, range(settings.count), seed=settings.seed, **size, batch_rows=settings.batch_rows)

    def images() -> Any:
        for layers in scenes:
            first.extend([Layers(layers.colour[:_SHOWN], layers.log_mask[:_SHOWN])] if not first else [])
            yield layers.image

    table = storage.join(settings.out, "samples.parquet")
    origin = {"seed": settings.seed, "sampler": settings.sampler, "model": described.digest}
    pictures.write_samples(table, images(), keep=1, **origin)
    grids, failed = {"samples": layer_grid(first[0])}, []
    if settings.images is not None:
        grids["layers"] = _apart(settings, task, model, failed)
    return {
        "status": "done",
        **origin,
        "count": settings.count,
        "failed": by_code(failed),
        "samples": table,
        **_write(settings.out, grids),
        "seconds": round(time.monotonic() - started, 1),
    }


def _apart(settings: Settings, task: ImageRegions, model: SlotVAE, failed: list[FailedInput]) -> np.ndarray:
    """The grid of images at random, taken apart."""
    assert settings.images is not None
    rows = training_inputs(settings.images, ImageRegions.inputs)[0]
    chosen = rows.take(np.random.default_rng(settings.seed).permutation(rows.num_rows)[:_SHOWN])
    found, layers = taken_apart(task, model, chosen, failed)
    return layer_grid(layers, found)


def _write(out: str, grids: dict[str, np.ndarray]) -> dict[str, Any]:
    page = Page("Layers")
    for name, grid in grids.items():
        data = encode_png(grid)
        storage.write(storage.join(out, f"{name}.png"), data)
        page.pictures(_HEADINGS[name], [(f"{name}.png", data)])
    found = [storage.join(out, f"{name}.png") for name in grids]
    return {"pictures": found, "report": page.write(storage.join(out, "report.html"))}
