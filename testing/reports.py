"""Runs that never ran: a table with rows drawn at random, so that the page of a run of any size can be made."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.examples.scenes import CLASSES, PALETTE, scene
from pipeline.images.outputs import encode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.quality.report import Described
from pipeline.runs.timeline import Timeline
from pipeline.table.delta import Table
from pipeline.table.manifest import COLUMNS
from pipeline.table.schema import TableSchema

TASK = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=48, width_px=64)
_BLOCK_ROWS = 128
_SCENES = 40
_CODES = ("not_an_image", "timeout", "too_large")


def synthetic_run(
    place: Path,
    count: int,
    *,
    seed: int = 0,
    shift: float = 0.0,
    names: tuple[str, ...] = (),
    height: int = 240,
    width: int = 320,
    model: str = "0" * 32,
) -> tuple[Described, dict[str, Any]]:
    """Commit a run of ``count`` rows to the sink ``place/sink``, one in fifty failed. Returns it with its summary.

    Images and masks are a few scenes again and again, below ``place/images``. ``shift`` lowers the confidence and
    raises the novelty. ``names`` are those of the first inputs.
    """
    random_numbers = np.random.default_rng(seed)
    files = _write_scenes(place / "images", height, width)
    run_id = f"2026112{seed % 10}T012406.427816Z-{seed:04x}"
    sink, schema = str(place / "sink"), _schema()
    table = Table(sink, schema)
    table.create()
    timeline, errors, entries, parts = Timeline(), Counter[str](), [], []
    for start in range(0, count, _BLOCK_ROWS):
        rows = []
        for ordinal in range(start, min(count, start + _BLOCK_ROWS)):
            original, mask, pixels = files[ordinal % len(files)]
            uri = place / "images" / (names[ordinal] if ordinal < len(names) else f"{ordinal:06d}.jpg")
            with contextlib.suppress(FileExistsError):
                os.link(original, uri)
            row: dict[str, Any] = {"uri": str(uri), "member": None}
            row |= {"etag": "", "size": 1000, "model": model, "settings": "1" * 32, "run_id": run_id}
            if ordinal % 50 == 49:
                code = _CODES[int(random_numbers.choice(3, p=[0.7, 0.2, 0.1]))]
                errors[code] += 1
                row["error"] = {"stage": "prepare", "code": code, "message": f"input {ordinal} is damaged"}
            else:
                row |= {"height": height, "width": width, "mask": {"bytes": mask, "path": None}, "class_pixels": pixels}
                confidence = float(np.clip(random_numbers.beta(9, 2) - shift * random_numbers.random(), 0.2, 1))
                row |= {"confidence": confidence, "uncertainty": 1.5 * (1 - confidence)}
                novelty = float(np.clip(random_numbers.beta(2, 2 - shift) * 100, 0, 100))
                row |= {
                    "novelty": novelty,
                    "novelty_raw": novelty / 10,
                    "embedding": _embedding(random_numbers, ordinal),
                }
            rows.append(row)
            entries.append({"ordinal": ordinal, "pending": True, "format": "object"} | row)
        parts.append(table.write_part(_table(rows, schema), run_id, model))
        seconds = {"fetch": 0.3, "prepare": 0.5, "predict": 1.9, "encode": 0.3, "write": 0.1}
        timeline.add(len(rows), 1000 * len(rows), seconds, at_s=8 + 1.6 * start / _BLOCK_ROWS)
    table.commit(parts, run_id=run_id)
    timeline.look({"actors_running": 2, "cpus": 4, "gpus": 0, "blocks_queued": 3})
    folder = storage.join(sink, "runs", run_id)
    listed = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS.names} for row in entries], COLUMNS)
    listed = listed.set_column(
        COLUMNS.names.index("error"), "error", pa.nulls(len(entries), COLUMNS.field("error").type)
    )
    pq.write_table(listed, buffer := pa.BufferOutputStream())
    storage.write(storage.join(folder, "manifest", "00000.parquet"), buffer.getvalue().to_pybytes())
    failed = sum(errors.values())
    summary = {
        "run_id": run_id,
        "source": [str(place / "images")],
        "table": table.uri,
        "model": model,
        "settings": "1" * 32,
        "listed": count + 500,
        "skipped": 500,
        "pending": count,
        "done": count - failed,
        "failed": failed,
        "errors": dict(sorted(errors.items())),
        "removed": 120,
        "remade": 0,
        "passed_over": {".txt": 12},
        "stage_seconds": {"fetch": 24.0, "prepare": 40.0, "predict": 150.0, "encode": 24.0, "write": 8.0},
        "seconds": round(9 + 1.6 * count / _BLOCK_ROWS, 3),
        "status": "done",
        "exit_code": 0,
    }
    return Described(sink=sink, run_id=run_id, task=TASK, timeline=timeline.described()), summary


def _schema() -> TableSchema:
    return TableSchema.of(
        TASK.schema, result=TASK.result, huggingface_features=TASK.huggingface_features, stored_as_is=TASK.stored_as_is
    )


def _table(rows: list[dict[str, Any]], schema: TableSchema) -> pa.Table:
    columns = schema.columns.remove_metadata()
    return pa.Table.from_pylist([{name: row.get(name) for name in columns.names} for row in rows], columns)


def _embedding(random_numbers: np.random.Generator, ordinal: int) -> list[float]:
    """An embedding that is that of the scene, with some noise."""
    found = np.random.default_rng(ordinal % _SCENES).standard_normal(16) + 0.2 * random_numbers.standard_normal(16)
    return found.astype(np.float32).tolist()


def _write_scenes(folder: Path, height: int, width: int) -> list[tuple[str, bytes, list[int]]]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(_SCENES):
        image, label = scene(number, height, width)
        path = folder.parent / f"scene {number:02d}.jpg"
        if not path.exists():
            Image.fromarray(image).save(path, quality=90)
        mask = np.where(label < len(CLASSES), label, 0).astype(np.uint8)
        found.append(
            (str(path), encode_mask(mask, PALETTE), np.bincount(mask.ravel(), minlength=len(CLASSES)).tolist())
        )
    return found
