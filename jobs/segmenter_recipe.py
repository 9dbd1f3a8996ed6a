"""How `train_image_segmenter` gets its settings: from a recipe, from what was given, and from an earlier start."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from jobs.console import say
from pipeline import config, models, storage
from pipeline.errors import RequestError
from pipeline.images.fingerprint import fingerprint
from pipeline.images.labels import LabelRules
from pipeline.images.recipe import Given, Size, choose
from pipeline.images.speed import training_speed
from pipeline.json_text import to_json
from pipeline.runs.life import store_json

FILE = "recipe.json"
_NO_LIMIT = 1e12

#: The settings of a network of this width; None: of the one that is given.
Network = Callable[[int | None], Mapping[str, Any]]

#: The settings that a recipe chooses: those of the job with their names in it, those of augmentation and of train.
OF_JOB = ("height_px", "width_px", "resize", "tile_scale", "objective", "class_weights")
OF_AUGMENTATION = ("scale", "vertical_flip", "half_size")
OF_TRAINING = ("epochs", "batch_rows", "learning_rate", "ema_decay", "evaluate_every_epochs", "precision")


def recipe_of(
    settings: Any, inputs: pa.Table, rules: LabelRules, network: Network, widths: Sequence[int | None]
) -> dict[str, Any] | None:
    """What a recipe chooses, as the content of `FILE`; None if ``out`` has a training that was begun without one.

    ``settings``: those of `train_image_segmenter`; ``widths``: of the networks to choose from, from narrow to wide. The
    same command finds the choice in ``out`` again, where `stored` puts it, since no machine is measured twice with the
    same result.
    """
    where = storage.join(settings.out, FILE)
    request = {"minutes": settings.minutes, "architecture": settings.architecture}
    request |= {name: getattr(settings, name) for name in ("resize", "height_px", "width_px", "tile_scale")}
    request |= {"networks": [network(width) for width in widths], "images": inputs.num_rows}
    request = json.loads(to_json(request))
    is_begun = storage.exists(storage.join(settings.out, "training.json"))
    if storage.exists(where):
        found = json.loads(storage.read(where))
        if found["request"] == request:
            say("settings by the recipe that was chosen when this training began")
            return found
    elif is_begun:
        return None
    given = Given(
        resize=settings.resize,
        height_px=settings.height_px,
        width_px=settings.width_px,
        tile_scale=settings.tile_scale,
    )
    say("looking at the images and measuring the speed of this machine")
    data = fingerprint(inputs, rules)
    sizes, precision = _sizes(settings, network, widths)
    chosen = choose(data, rules.classes, inputs.num_rows, settings.minutes, sizes, given)
    found = {**config.to_dict(chosen), "precision": precision}
    for reason in chosen.reasons:
        say(reason)
    return {"request": request, "settings": found, "data": config.to_dict(data)}


@contextlib.contextmanager
def stored(out: str, recipe: dict[str, Any] | None) -> Iterator[None]:
    """Keep a recipe in ``out`` for the training that begins there, unless its request is refused."""
    where = storage.join(out, FILE)
    is_new = not any(storage.exists(storage.join(out, name)) for name in (FILE, "training.json"))
    if recipe is not None and is_new:
        store_json(where, recipe)
    try:
        yield
    except RequestError:
        if recipe is not None and is_new:
            storage.delete_all([where])
            if storage.is_local(out):
                with contextlib.suppress(OSError):  # other files are in it
                    os.rmdir(out)
        raise


def with_recipe(settings: Any, defaults: Any, recipe: dict[str, Any]) -> Any:
    """Settings with the recipe's values where they are null, or, in augmentation and train, where they have their
    defaults."""
    chosen = {name: recipe[name] for name in OF_JOB if getattr(settings, name) is None}
    if recipe["width"] is not None:
        chosen["width"] = recipe["width"]
    for group, names in (("augmentation", OF_AUGMENTATION), ("train", OF_TRAINING)):
        own, usual = getattr(settings, group), getattr(defaults, group)
        values = {name: recipe[name] for name in names if getattr(own, name) == getattr(usual, name)}
        chosen[group] = dataclasses.replace(own, **_tuples(values))
    return dataclasses.replace(settings, **_tuples(chosen))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _sizes(settings: Any, network: Network, widths: Sequence[int | None]) -> tuple[list[Size], str]:
    """The networks that a recipe may choose from, with their speeds, and the precision that is fastest."""
    if not widths:
        return [Size(width=None, pixels_per_s=_NO_LIMIT)], "float32"
    device = torch.device("cuda" if settings.train.gpu is not False and torch.cuda.is_available() else "cpu")
    sizes: list[Size] = []
    precision = "float32"
    for width in widths:
        speed = training_speed(models.build(settings.architecture, network(width)), device)
        precision = speed.precision
        sizes.append(Size(width=width, pixels_per_s=speed.pixels_per_s, memory_px=speed.memory_px))
    return sizes, precision
