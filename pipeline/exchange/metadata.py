"""What an exported segmenter says of itself in its ONNX file, so that an import needs nothing else."""

from __future__ import annotations

import json
from typing import Any

from pipeline import config
from pipeline.errors import RequestError
from pipeline.images.task import ImageSegmentation

#: Settings of a task that say nothing about how a finished segmenter is used.
_OF_TRAINING = ("augmentation", "autoencoder", "class_weights", "objective")

FORMAT = 1


def described(task: ImageSegmentation, digest: str) -> dict[str, str]:
    """The metadata of an ONNX file: by key, a text. ``digest``: of the package.

    ``parquetry`` is what `task_of` reads. The others are for people and for other tools.
    """
    settings = {name: value for name, value in config.to_dict(task).items() if name not in _OF_TRAINING}
    return {
        "parquetry": _json({"format": FORMAT, "package": digest, "task": settings}),
        "classes": _json(list(task.classes)),
        "palette": _json([list(color) for color in task.palette]),
        "preprocessing": "RGB, batch x 3 x height x width, float32, pixels of 0 to 255 divided by 255; "
        f"trained on {task.height_px} x {task.width_px} pixels, images outside of that padded with 128/255",
        "output": "logits of the classes at the size of the input",
    }


def task_of(text: str) -> ImageSegmentation:
    """The task that `described` has written. `RequestError` if the text is another."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise RequestError("its metadata 'parquetry' are not JSON") from reason
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("task"), dict):
        raise RequestError(f"its metadata 'parquetry' must have the format {FORMAT} and a task")
    settings = {name: value for name, value in found["task"].items() if name not in _OF_TRAINING}
    try:
        return config.from_dict(ImageSegmentation, settings)
    except RequestError as reason:
        raise RequestError(f"its metadata 'parquetry' do not fit: {reason}") from reason


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
