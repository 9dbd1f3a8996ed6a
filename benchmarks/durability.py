"""What it costs to bring files of a local disk to the disk (fsync) before they are reported.

Small files as images and labels are, parts as a run writes them, and commits of a table of eight rows each; with fsync
and with one that does nothing, in turns, in one process. The ratio depends on the disk above all: the file system is
named.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.record import record
from pipeline import storage
from pipeline.table.delta import Table
from pipeline.table.schema import TableSchema

SCHEMA = TableSchema.of(pa.schema([("mask", pa.binary())]), result="mask", huggingface_features={}, stored_as_is=())


@contextmanager
def _without(is_synced: bool) -> Iterator[None]:
    kept = os.fsync
    if not is_synced:
        os.fsync = lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = kept


def _files(folder: Path, count: int, size: int) -> None:
    data = os.urandom(size)
    for number in range(count):
        storage.write(str(folder / f"{number}"), data)


def _commits(folder: Path, count: int, size: int) -> None:
    table = Table(str(folder), SCHEMA)
    table.create()
    table.fence(1, "run")
    values = {"uri": "u", "etag": "1", "size": 1, "model": "m", "settings": "s", "run_id": "run"}
    rows = pa.Table.from_pylist([values | {"mask": os.urandom(size // 8)} for _ in range(8)], schema=SCHEMA.columns)
    for _ in range(count):
        table.commit([table.write_part(rows, "run", "m")], run_id="run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="a folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="fewer files")
    arguments = parser.parse_args()
    share = 5 if arguments.small else 1
    works: dict[str, tuple[Callable[[Path, int, int], None], int, int]] = {
        "files of 20 kB": (_files, 500 // share, 20_000),
        "parts of 4 MB": (_files, 50 // share, 4_000_000),
        "commits with a part of 1 MB": (_commits, 50 // share, 1_000_000),
    }
    rows: list[dict[str, Any]] = []
    for name, (work, count, size) in works.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(arguments.rounds):
            for is_synced in (False, True):
                with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="durability-") as folder:
                    with _without(is_synced):
                        began = time.perf_counter()
                        work(Path(folder), count, size)
                        seconds[is_synced].append(time.perf_counter() - began)
                    os.sync()
        plain, synced = (statistics.median(seconds[key]) / count for key in (False, True))
        rows.append({"what": name, "plain ms": plain * 1e3, "synced ms": synced * 1e3, "ratio": synced / plain})
    asked = subprocess.run(
        ["stat", "-f", "-c", "%T", str(arguments.folder)], capture_output=True, text=True, check=True
    )
    kind = asked.stdout.strip()
    headline = {f"ratio of {row['what']}": row["ratio"] for row in rows} | {"file_system": kind}
    record("durability", rows, headline, f"medians of {arguments.rounds} rounds. {__doc__}", small=arguments.small)


if __name__ == "__main__":
    main()
