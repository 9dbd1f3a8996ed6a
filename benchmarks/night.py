"""The beginning of a night on a table of millions of rows: from the command to the first block of inputs.

The table is a local one whose rows have the columns that every table has and a mask of 64 bytes. It is made of parts of
128 rows, as runs of images leave them, and then compacted by the command of the project. A night opens the table, reads
what is done, and writes a manifest of as many listed inputs, of which one in a thousand is new. The listing is made up,
page by page; what that alone costs is measured, too, and left out of the seconds of the manifest and of all. Each night
is a fresh process, whose seconds and largest resident memory are told; memory is that of the whole process with its
imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import record

PART_ROWS, PAGE_ROWS, COMMIT_PARTS = 128, 8192, 2000
NEW = 1000  # one input in so many is new
MODEL, SETTINGS, RUN = "m" * 32, "s" * 16, "20260101T000000.000000Z-0000"
PASSES = ("small parts", "compacted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", action="store_true", help="50,000 rows")
    parser.add_argument("--work", type=Path, help="an existing folder, which keeps the table; default: a temporary one")
    parser.add_argument("--skip_small", action="store_true", help="no night before the compaction")
    parser.add_argument("--arm", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        name, *values = arguments.arm
        print(json.dumps({"make": run_make, "compact": run_compact, "night": run_night}[name](*values)))
        return
    count = 50_000 if arguments.small else arguments.rows
    work = arguments.work or Path(tempfile.mkdtemp(prefix="night-"))
    try:
        rows = measure(work, count, arguments.skip_small)
    finally:
        if arguments.work is None:
            shutil.rmtree(work)
    headline = {
        f"{'seconds' if what == 's' else 'peak MiB'} of a night, {row['pass']}": row[what]
        for row in rows
        if row["what"] == "all"
        for what in ("s", "peak MiB")
    }
    record("night", rows, headline, f"{count} rows, one run. {__doc__}", small=arguments.small)


def measure(work: Path, count: int, skip_small: bool) -> list[dict[str, Any]]:
    sink, rows = work / f"sink-{count}", []

    def arm(name: str, *values: object) -> None:
        command = [sys.executable, "-m", "benchmarks.night", "--arm", name, *map(str, values)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for row in json.loads(done.stdout.splitlines()[-1]):
            rows.append(row)
            print(json.dumps(row), flush=True)

    if not sink.exists():
        arm("make", count, sink)
    if not skip_small:
        arm("night", count, sink, PASSES[0])
    arm("compact", sink)
    arm("night", count, sink, PASSES[1])
    return rows


class Clock:
    """Rows of figures: what was done, its seconds, and the largest memory of this process so far."""

    def __init__(self, of: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self._of, self._began = of, time.perf_counter()

    def timed(self, what: str, run: Callable[[], Any], **more: Any) -> Any:
        began = time.perf_counter()
        found = run()
        self.add(what, time.perf_counter() - began, **more)
        return found

    def restart(self) -> None:
        self._began = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Take seconds that are not what is measured out of the newest row, and out of all."""
        self.rows[-1]["s"] -= seconds
        self._began += seconds

    def all(self) -> list[dict[str, Any]]:
        self.add("all", time.perf_counter() - self._began)
        return self.rows

    def add(self, what: str, seconds: float, **more: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.rows.append({"pass": self._of, "what": what, "s": seconds, "peak MiB": peak, **more})
        print(f"{self._of}, {what}: {seconds:.2f} s, {peak:.0f} MiB", file=sys.stderr, flush=True)


def schema() -> Any:
    import pyarrow as pa

    from pipeline.images.outputs import HUGGINGFACE_FEATURES, STORED_AS_IS
    from pipeline.table.schema import TableSchema

    columns = pa.schema([("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    return TableSchema.of(columns, result="mask", huggingface_features=HUGGINGFACE_FEATURES, stored_as_is=STORED_AS_IS)


def run_make(count: str, sink: str) -> list[dict[str, Any]]:
    from pipeline.table.delta import Table

    clock, table = Clock("make"), Table(sink, schema())
    table.create()
    starts = list(range(0, int(count), PART_ROWS))
    chunks = [(table.uri, starts[first : first + 500], int(count)) for first in range(0, len(starts), 500)]

    def run() -> None:
        waiting: list[Any] = []
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for found in pool.imap(write_parts, chunks):
                waiting += found
                if len(waiting) >= COMMIT_PARTS:
                    table.commit(waiting, run_id=RUN)
                    waiting = []
        if waiting:
            table.commit(waiting, run_id=RUN)

    clock.timed("write parts", run)
    return clock.rows


def write_parts(chunk: tuple[str, list[int], int]) -> list[Any]:
    import pyarrow as pa

    from pipeline.storage import local
    from pipeline.table.parts import write_part

    local.os.fsync = lambda _: None  # the disk is not what is measured
    uri, starts, count = chunk
    columns, found = schema(), []
    for start in starts:
        rows = inputs(start, min(count, start + PART_ROWS))
        size = rows.num_rows
        mask = pa.StructArray.from_arrays(
            [pa.array([b"\x89PNG" * 16] * size), pa.nulls(size, pa.string())], ["bytes", "path"]
        )
        for name, values in {"model": MODEL, "settings": SETTINGS, "run_id": RUN}.items():
            rows = rows.append_column(name, pa.array([values] * size))
        found.append(write_part(uri, columns, rows.append_column("mask", mask), RUN, MODEL))
    return found


def run_compact(sink: str) -> list[dict[str, Any]]:
    from jobs.compact import Compact, work

    clock, found = Clock("compact"), {}
    clock.timed("compact", lambda: found.update(work(Compact(sink=sink))))
    clock.rows[-1] |= {name: found[name] for name in ("before", "after", "rows")}
    return clock.rows


def run_night(count: str, sink: str, of: str) -> list[dict[str, Any]]:
    import numpy as np

    from pipeline.table.delta import Table
    from pipeline.table.manifest import Manifest

    clock, number = Clock(of), int(count)
    began = time.perf_counter()
    assert sum(page.num_rows for page in listing(number)) == number
    listing_s = time.perf_counter() - began
    clock.restart()
    table = clock.timed("open the table", lambda: Table(sink, schema()))
    files = clock.timed("committed parts", lambda: len(table.parts()))
    clock.rows[-1]["files"] = files
    clock.timed("last run id", table.last_run_id)
    contents = clock.timed("contents", lambda: table.contents(MODEL, SETTINGS))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(folder)
        done = contents.done(retry_errors=False)
        clock.timed("manifest", lambda: manifest.write(listing(number), done, None))
        clock.leave_out(listing_s)
        assert (manifest.listed, manifest.pending) == (number, -(-number // NEW))
        clock.timed("is anything outdated", lambda: contents.outdated(manifest.inputs(), manifest.pending))
        del contents, done
        first = clock.timed("first block", lambda: next(manifest.blocks(np.zeros(number, bool), 128, 1 << 30)))
        assert first[0].num_rows
    return clock.all()


def listing(count: int) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.source.entries import ENTRIES

    for start in range(0, count, PAGE_ROWS):
        rows = inputs(start, min(count, start + PAGE_ROWS))
        is_new = pa.array(np.arange(start, start + rows.num_rows) % NEW == 0)
        tags = pc.call_function("if_else", [is_new, pa.scalar("new"), rows["etag"]])
        rows = rows.set_column(rows.column_names.index("etag"), "etag", tags)
        rows = rows.append_column("format", pa.array(["object"] * rows.num_rows))
        for field in ENTRIES:
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        yield rows.select(ENTRIES.names).cast(ENTRIES)


def inputs(start: int, end: int) -> Any:
    import pyarrow as pa

    numbers = range(start, end)
    return pa.table(
        {
            "uri": [f"s3://photos/2026/{number // 10_000:06d}/{number:012d}.jpg" for number in numbers],
            "member": pa.nulls(end - start, pa.string()),
            "etag": [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in numbers],
            "size": [1000 + number % 977 for number in numbers],
        }
    )


if __name__ == "__main__":
    main()
