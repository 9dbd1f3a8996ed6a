"""What every benchmark does with its figures: print them, and write them with all that is needed to make them again."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("ray", "torch", "pyarrow", "pillow", "deltalake")


def data_folder() -> Path | None:
    """The folder of real data sets that PARQUETRY_DATA names, if it is there."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("PARQUETRY_DATA", default))
    return folder if folder.is_dir() else None


def record(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    headline: Mapping[str, Any],
    protocol: str,
    *,
    small: bool,
    write: bool = True,
) -> None:
    """Print rows and headline; write ``results/NAME.json`` (``NAME-small.json`` for a small run), unless told not to.

    Lists and mappings among a row's values are written, but not printed.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], (list, dict))))
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in [columns, *cells]) for index in range(len(columns))]
    for line in [columns, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    for key, value in headline.items():
        print(f"{key}: {_text(value)}")
    if not write:
        return
    given = zip([None, *sys.argv[1:]], sys.argv[1:], strict=False)
    arguments = [argument for before, argument in given if "--work" not in (before, argument)]  # a place, not a setting
    content = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *arguments]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {_processor()}",
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "protocol": protocol,
        "headline": headline,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}{'-small' if small else ''}.json"
    file.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {file}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
