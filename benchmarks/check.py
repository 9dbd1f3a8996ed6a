"""Compares ratios of speed with stored ones, to find what has become slower: ``make bench-check``.

Benchmarks run in their small versions, one after the other, and only their ratios count (ours to a peer, or to a limit,
run in turn on the same machine), since seconds differ from machine to machine. A ratio that is worse than the stored
one by more than its tolerance is named, and the exit code is 1. Small versions are noisy: run it on a quiet machine,
and twice before you believe it. ``--store`` keeps today's ratios in ``benchmarks/ratios.json``, to be committed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

STORED = Path(__file__).parent / "ratios.json"
_LONGEST_S = 600


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A ratio that must not get worse."""

    benchmark: str
    name: str
    """Its name in the headline."""
    is_better: str = "higher"
    """``higher`` or ``lower``."""
    tolerance: float = 0.25
    """Part of the stored value by which it may be worse."""


GUARDED = (
    Guarded(benchmark="training", name="ratio_to_plain_loop", tolerance=0.1),
    Guarded(benchmark="downloads", name="fetch_to_s3fs"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--store", action="store_true", help="keep what is measured as the ratios to compare with")
    parser.add_argument("--only", nargs="+", choices=sorted({one.benchmark for one in GUARDED}))
    arguments = parser.parse_args()
    names = arguments.only or list(dict.fromkeys(one.benchmark for one in GUARDED))
    found = {name: measured(name) for name in names}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if arguments.store:
        wanted = {one.name: found[one.benchmark][one.name] for one in GUARDED if one.benchmark in found}
        STORED.write_text(json.dumps(stored | wanted, indent=2, sort_keys=True) + "\n")
        print(f"wrote {STORED}")
        return
    worse = [text for one in GUARDED if one.benchmark in found for text in verdict(one, found[one.benchmark], stored)]
    for text in worse:
        print(text, file=sys.stderr)
    sys.exit(1 if worse else 0)


def measured(name: str) -> dict[str, Any]:
    """The headline of the small version of a benchmark."""
    print(f"--- {name}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--small"], timeout=_LONGEST_S, check=False)
    if done.returncode:
        sys.exit(f"benchmarks.{name} --small ended with {done.returncode}")
    return json.loads((RESULTS / f"{name}-small.json").read_text())["headline"]


def verdict(one: Guarded, found: dict[str, Any], stored: dict[str, float]) -> list[str]:
    """What is to be said about a ratio: nothing if it is as good as the stored one, within its tolerance."""
    value, before = found.get(one.name), stored.get(one.name)
    if value is None or before is None:
        return [f"{one.name} of {one.benchmark} {'was not measured' if value is None else 'is not stored'}"]
    sign = 1 if one.is_better == "higher" else -1
    print(f"{one.name}: {value:.3g}, stored {before:.3g}")
    if sign * (value - before) < -one.tolerance * before:
        return [f"{one.name} of {one.benchmark} is {value:.3g}, and was {before:.3g}; {one.is_better} is better"]
    return []


if __name__ == "__main__":
    main()
