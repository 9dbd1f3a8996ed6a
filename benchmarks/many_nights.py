"""Hundreds of nights on one table: does the last one begin as fast as the first?

Each night is a run of the product on 100 new images: it takes the lease, opens the table, reads how earlier runs have
ended, lists its source, subtracts what the table holds, commits parts, removes older rows, joins small files by the
rule of runs, and writes its page. Only the stages are left out, so that no cluster and no model is needed: the part
files hold the same small mask for each image. With ``--pass day`` the source is the folder of the night, with
``--pass all`` the folder of all nights, which grows.

The nights are a day apart: the log gets the times of the night, so that it forgets files that were joined after a week,
and commits after 30 days, as a real one does. The last nights take turns with nights 2 to 15 of a second sink that is
new, so that both have the machine alike. Told are the medians of both, of the clock and of the CPU, which other
programs on the machine do not slow down; 14 nights are the time from one joining of small files to the next.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.record import record
from jobs.segmenting import live
from pipeline import package, storage
from pipeline.distributed.run import Run, block_rows
from pipeline.distributed.stages import STAGES
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.package import Package
from pipeline.runs.committer import Committer
from pipeline.runs.plan import RunConfig, RunPlan, StreamConfig
from pipeline.table import commits
from pipeline.table.lease import Lease
from pipeline.table.schema import KEY_COLUMNS

NIGHTS, INPUTS, CPUS = 300, 100, 2
COMPARED = 14  # nights until there are 100 small files
START = ("open", "begin", "list")
PHASES = (*START, "work", "finish", "compact", "page")
HEIGHT_PX, WIDTH_PX = 24, 32


class Night(Run):
    """A run whose stages are left out. ``seconds`` has what each of its parts took."""

    def __init__(self, plan: RunPlan) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.cpu: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        with self._timed("open"):
            super().__init__(plan, lambda _: None)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[phase] += time.perf_counter() - began
        self.cpu[phase] += time.process_time() - cpu

    def _begin(self, lease: Lease) -> None:
        with self._timed("begin"):
            super()._begin(lease)

    def _write_manifest(self) -> bool:
        with self._timed("list"):
            return super()._write_manifest()

    def _run_passes(self, lease: Lease) -> None:
        with self._timed("work"):
            self._commit_parts()

    def _finish_table(self, outdated: bool) -> None:
        with self._timed("finish"):
            super()._finish_table(outdated)

    def _compact(self, lease: Lease) -> None:
        with self._timed("compact"):
            super()._compact(lease)

    def _commit_parts(self) -> None:
        """Parts as two actors would write them, in two commits."""
        stream, model = self.plan.stream, self.plan.package.digest
        committer = self._committer = Committer(
            self.table, self.counts, model=model, run_id=self.run_id, inputs=self.counts.listed
        )
        size = block_rows(self.counts.pending, stream, CPUS)
        blocks = [
            block for shard in self._manifest.blocks(committer.accepted, size, stream.block_bytes) for block in shard
        ]
        for number, block in enumerate(blocks):
            committer.accept(self._receipt(block), STAGES)
            if number == len(blocks) // 2:
                committer.commit()
        committer.commit()

    def _receipt(self, entries: pa.Table) -> dict[str, Any]:
        count, task = entries.num_rows, self.plan.task
        values = {
            "height": HEIGHT_PX,
            "width": WIDTH_PX,
            "mask": {"bytes": _png("P"), "path": None},
            "class_pixels": [HEIGHT_PX * WIDTH_PX, 0],
            "confidence": 0.9,
            "uncertainty": 0.1,
            "model": self.plan.package.digest,
            "settings": self.plan.settings,
            "run_id": self.run_id,
        }
        columns = {name: entries[name] for name in KEY_COLUMNS.names}
        for field in self.table.schema.columns:
            if field.name not in columns:
                columns[field.name] = pa.array([values.get(field.name)] * count, field.type)
        assert set(values) <= set(columns), task.schema
        part = self.table.write_part(pa.table(columns), self.run_id, self.plan.package.digest)
        return {
            "path": part.path,
            "size": part.size,
            "rows": part.rows,
            "ordinals": entries["ordinal"].to_pylist(),
            "failed": [],
            "unusual": [],
            "bytes": sum(entries["size"].to_pylist()),
            **{f"{stage}_s": 0.0 for stage in STAGES},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--pass", nargs="+", choices=("day", "all"), default=["day"], dest="passes")
    parser.add_argument("--small", action="store_true", help="40 nights of the first pass")
    parser.add_argument("--work", type=Path, help="a folder that keeps the tables; default: a temporary one")
    arguments = parser.parse_args()
    nights, passes = (40, ["day"]) if arguments.small else (arguments.nights, arguments.passes)
    work = arguments.work or Path(tempfile.mkdtemp(prefix="many-nights-"))
    rows, headline = [], {}
    try:
        for name in passes:
            measured, found = measure(work / name, nights, of_all=name == "all")
            rows += [{"pass": name, **row} for row in measured]
            headline |= {f"{key}, {name}": value for key, value in found.items()}
    finally:
        if arguments.work is None:
            shutil.rmtree(work)
    record("many_nights", rows, headline, f"{nights} nights, one run. {__doc__}", small=arguments.small)


def measure(work: Path, nights: int, *, of_all: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of figures for each part of a night, and what matters most."""
    old, new = (Place(work / name, of_all=of_all) for name in ("old", "new"))
    for number in range(nights - COMPARED):
        done = old.night(days_ago=nights - number)
        if number % 50 == 0:
            print(f"night {number}: {sum(done.seconds.values()):.2f} s", file=sys.stderr, flush=True)
    new.night(days_ago=COMPARED + 1)
    pairs = [(new.night(days_ago=days), old.night(days_ago=days)) for days in range(COMPARED, 0, -1)]
    early, late = ([pair[place].seconds for pair in pairs] for place in (0, 1))
    early_cpu, late_cpu = ([pair[place].cpu for pair in pairs] for place in (0, 1))
    rows = [
        {
            "what": name,
            "first s": _median(early, (name,)),
            "last s": _median(late, (name,)),
            "first CPU s": _median(early_cpu, (name,)),
            "last CPU s": _median(late_cpu, (name,)),
        }
        for name in PHASES
    ]
    log = [path.name for path in (old.sink / "table" / "_delta_log").iterdir()]
    return rows, {
        "start of the last nights, times the first": _median(late, START) / _median(early, START),
        "CPU of the start, times the first": _median(late_cpu, START) / _median(early_cpu, START),
        "whole night, times the first": _median(late, PHASES) / _median(early, PHASES),
        "most part files": old.most_files,
        "versions": old.version,
        "commits in the log": sum(name.endswith(".json") and name[0] == "0" for name in log),
        "commits since the checkpoint": commits_to_replay(log),
    }


class Place:
    """A sink, its source, and the nights that it has seen."""

    def __init__(self, folder: Path, *, of_all: bool) -> None:
        self.sink, self._inbox, self._of_all = folder / "sink", folder / "inbox", of_all
        self._model = write_package(folder / "model")
        self._nights = self.most_files = self.version = 0
        self._aged: set[str] = set()  # files of the log that have the time of their night

    def night(self, days_ago: int) -> Night:
        """Do one more night, as if it had been so many days ago."""
        folder = write_images(self._inbox / f"{self._nights:04d}")
        self._nights += 1
        then = time.time() - 86400 * days_ago
        commits._now_ms = lambda: int(1000 * then)
        night = Night(plan(self._inbox if self._of_all else folder, self._model, self.sink))
        self.most_files = max(self.most_files, len(night.table.parts()))
        began, cpu = time.perf_counter(), time.process_time()
        summary = live(night)
        whole, whole_cpu = time.perf_counter() - began, time.process_time() - cpu
        assert summary["exit_code"] == 0, summary
        assert (summary["done"], summary["failed"]) == (INPUTS, 0), summary
        # What is left is the page, with the lease and the summary.
        night.seconds["page"] = whole - sum(night.seconds.values()) + night.seconds["open"]
        night.cpu["page"] = whole_cpu - sum(night.cpu.values()) + night.cpu["open"]
        self.version = night.table.version
        for file in (self.sink / "table" / "_delta_log").iterdir():
            if file.name not in self._aged:
                os.utime(file, (then, then))
                self._aged.add(file.name)
        return night


def commits_to_replay(log: list[str]) -> int:
    """How many commits a reader of the log reads besides its newest checkpoint, by the names of its files."""
    checkpoint = max((int(name[:20]) for name in log if ".checkpoint" in name and name[0] == "0"), default=-1)
    return sum(int(name[:20]) > checkpoint for name in log if len(name) == 25 and name.endswith(".json"))


def plan(source: Path, model: Package, sink: Path) -> RunPlan:
    return RunPlan(
        task=TASK, package=model, sources=(str(source),), sink=str(sink), config=RunConfig(), stream=StreamConfig()
    )


TASK = ImageSegmentation(
    classes=("ground", "sky"), palette=((0, 0, 0), (0, 0, 255)), height_px=HEIGHT_PX, width_px=WIDTH_PX
)


def write_package(folder: Path) -> Package:
    model = UNet(UNetConfig(classes=2, widths=(8,), blocks=(1,)))
    return package.save(str(folder), model_name="unet", model=model, task=TASK, card={})


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(INPUTS):
        (folder / f"{number:06d}.png").write_bytes(_png("RGB"))
    return folder


def _png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def _median(nights: list[dict[str, float]], phases: tuple[str, ...]) -> float:
    return statistics.median(sum(night[phase] for phase in phases) for night in nights)


if __name__ == "__main__":
    storage.configure(storage.StorageConfig())
    main()
