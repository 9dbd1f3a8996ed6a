"""Archives, compressed files, JSONL and Parquet files, changed at random, through listing and fetching.

Each stands beside a sound file, which must have its bytes whatever the other is. No exception may escape, no input may
be listed twice, nothing may run or be imported, no file may be left behind, and memory is bounded. One child process
does all of it, with Ray Data's Arrow types loaded; the parent notices if it dies or hangs, and begins a new one behind
that file. File N of seed S is the same everywhere: ``--only N`` tries it alone, here and now.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import resource
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.record import record
from testing.hostile.container_mutants import mutant, seeds
from testing.hostile.container_trials import trial
from testing.hostile.corpus import peak_mib

#: A file that takes longer hangs; machines that are shared stop for seconds at times.
HANG_S = 60.0
#: More memory than this, above the child's own, is not given.
MEMORY_BYTES = 2 << 30
#: All files together may take this much above what the child had before them, as the last of them shows a leak.
GROWTH_MIB = 192


def _work(pipe: Connection, seed: int, begin: int, end: int) -> None:
    """The child: every file, told before and after."""
    import ray.data  # noqa: F401  # it registers the Arrow types that unpickle

    faulthandler.enable()
    seeds()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20):  # what is loaded once is no file's
            trial(mutant(-1, number), Path(folder))
        with open("/proc/self/statm") as status:
            used = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        pipe.send(peak_mib())
        for number in range(begin, end):
            made = mutant(seed, number)
            pipe.send((number, f"{made.suffix}: {made.changes[0] if len(set(made.changes)) == 1 else 'several'}"))
            pipe.send((trial(made, Path(folder)), peak_mib()))
        pipe.send(None)


def fuzz(seed: int, count: int, begin: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A line for each kind of change, and the headline."""
    codes: dict[str, Counter[str]] = {}
    totals = Counter[str]()
    slowest, at_start, peak = 0.0, 0.0, 0.0
    context = multiprocessing.get_context("spawn")
    end = begin + count
    while begin < end:
        pipe, other = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(other, seed, begin, end), daemon=True)
        child.start()
        other.close()
        current, failure = (begin, "?"), ""
        try:
            at_start = pipe.recv() if pipe.poll(300) else 0.0
            while pipe.poll(HANG_S):
                told = pipe.recv()
                if told is None:
                    begin = end
                    break
                if isinstance(told[1], str):
                    current = told
                    continue
                found, peak_now = told
                number, line = current
                codes.setdefault(line, Counter()).update(found.codes + Counter(files=1))
                slowest, peak = max(slowest, found.seconds), max(peak, peak_now)
                for problem in found.problems:
                    totals["problems"] += 1
                    print(f"seed {seed}, number {number}, {line}: {problem}", flush=True)
                begin = number + 1
            else:
                failure = "hangs"
        except EOFError:
            failure = "crashes"
        if failure:
            child.kill()
        child.join()
        if failure:
            totals[failure] += 1
            codes.setdefault(current[1], Counter()).update({failure: 1, "files": 1})
            print(f"{failure}: seed {seed}, number {current[0]}, {current[1]}, exit code {child.exitcode}", flush=True)
            begin = current[0] + 1
    every = sorted({code for counter in codes.values() for code in counter} - {"files"})
    rows = [
        {"change": line, "files": codes[line]["files"]} | {code: codes[line][code] for code in every}
        for line in sorted(codes)
    ]
    headline = {
        "files": sum(row["files"] for row in rows),
        **{name: totals[name] for name in ("crashes", "hangs", "problems")},
        "slowest_s": slowest,
        "mib_before": at_start,
        "peak_mib": peak,
    }
    return rows, headline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="try this file alone")
    parser.add_argument("--keep", type=Path, help="with --only: write the file here")
    parser.add_argument("--no-record", action="store_true", help="print the figures only")
    parser.add_argument("--small", action="store_true", help="300 files")
    arguments = parser.parse_args()
    if arguments.only is not None:
        made = mutant(arguments.seed, arguments.only)
        if arguments.keep:
            arguments.keep.write_bytes(made.data)
        print(f"{made.kind}, {made.suffix}, {', '.join(made.changes)}, {len(made.data)} bytes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            print(trial(made, Path(folder)))
        return
    rows, headline = fuzz(arguments.seed, 300 if arguments.small else arguments.files)
    protocol = f"seed {arguments.seed}, one run, {MEMORY_BYTES >> 20} MiB for the child. {__doc__}"
    record("fuzz_containers", rows, headline, protocol, small=arguments.small, write=not arguments.no_record)
    grew = headline["peak_mib"] - headline["mib_before"] > GROWTH_MIB
    if grew or any(headline[name] for name in ("crashes", "hangs", "problems")):
        sys.exit(1)


if __name__ == "__main__":
    main()
