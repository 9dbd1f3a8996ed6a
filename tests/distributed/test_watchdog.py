"""Inputs that hang their worker or take it down: only they fail, and the run ends."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import nn

from pipeline import package
from pipeline.distributed.watchdog import UnfinishedBlocks
from pipeline.images.task import ImageSegmentation
from pipeline.runs.plan import StreamConfig
from testing.equality import table_rows
from testing.runs import TASK, new_run, write_images, write_package

pytestmark = pytest.mark.ray


@dataclass(frozen=True, kw_only=True)
class Hostage(ImageSegmentation):
    """Does at a stage what the size of an image says: 1 x 61 hangs, 1 x 62 dies, 1 x 63 dies twice."""

    stage: str = "prepare"
    deaths: str = ""

    def _act(self, width: int) -> None:
        if width == 61:
            while True:  # as C code does: no exception gets in
                time.sleep(3600)
        if width == 62:
            ctypes.string_at(0)
        if width == 63 and len(os.listdir(self.deaths)) < 2:
            Path(self.deaths, str(time.monotonic_ns())).touch()
            os._exit(1)

    def prepare(self, inputs: pa.Table) -> pa.Table:
        prepared = super().prepare(inputs)
        if self.stage == "prepare":
            for width in prepared["width"].to_pylist():
                self._act(width or 0)
        return prepared

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        if self.stage == "predict":
            for width in prepared["width"].to_pylist():
                self._act(width)
        return super().predict(model, prepared, device)

    def encode(self, predicted: pa.Table) -> pa.Table:
        if self.stage == "encode":
            for width in predicted["width"].to_pylist():
                self._act(width)
        return super().encode(predicted)


def test_a_row_fails_after_several_deaths_of_workers_at_it() -> None:
    blocks = UnfinishedBlocks()
    assert [blocks.begin("b")[0] for _ in range(3)] == [False, False, True]
    for death in range(1, 4):
        blocks.begin_row("b", 5, "prepare")
        row_by_row, faulty = blocks.begin("b")
        assert row_by_row
        assert faulty == ({5: ("prepare", "crashed")} if death == 3 else {})
    blocks.end("b")
    assert blocks.begin("b") == (False, {})


def test_a_row_that_exceeds_the_deadline_fails_at_once() -> None:
    blocks = UnfinishedBlocks()
    blocks.begin("b")
    blocks.overdue("b", None, "prepare")
    assert blocks.begin("b") == (True, {})
    blocks.begin_row("b", 2, "prepare")
    blocks.overdue("b", 2, "prepare")
    assert blocks.begin("b") == (True, {2: ("prepare", "timeout")})


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare"])
def test_only_the_faulty_rows_fail(cluster: None, tmp_path: Path, stage: str) -> None:
    from PIL import Image

    folder = write_images(tmp_path / "images", 20)
    for width in (61, 62, 63):
        Image.new("RGB", (width, 1)).save(folder / f"w{width}.png")
    (tmp_path / "deaths").mkdir()
    described = package.load(write_package(tmp_path / "package", 0))
    fields = {name: getattr(TASK, name) for name in ("classes", "palette", "height_px", "width_px")}
    task = Hostage(**fields, stage=stage, deaths=str(tmp_path / "deaths"))
    stream = StreamConfig(actors=1, batch_rows=4, block_rows=8, deadline_s=3)
    job = new_run([folder], described, tmp_path / "sink", task=task, stream=stream, max_error_rate=1)
    assert job.live().exit_code == 0
    rows = {Path(row["uri"]).name: row for row in table_rows(str(tmp_path / "sink"))}
    assert len(rows) == 23
    failed = {name: (row["error"]["stage"], row["error"]["code"]) for name, row in rows.items() if row["error"]}
    assert failed == {"w61.png": (stage, "timeout"), "w62.png": (stage, "crashed")}
