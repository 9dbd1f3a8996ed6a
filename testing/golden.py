"""Files that an earlier version wrote (``tests/golden``): its packages, tables, and a training that was stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "0.1.0"
#: Where the scenes lay while the earlier version read them, and when they were written: both are part of what a table
#: and a training know of them.
PLACE = Path("/tmp/parquetry-golden")
WRITTEN_S = 1_700_000_000


@contextmanager
def scenes_in_place() -> Iterator[Path]:
    """The scenes at the place and with the times that the golden table and training name."""
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(GOLDEN / "scenes", PLACE / "scenes")
    for path in (PLACE / "scenes").rglob("*"):
        os.utime(path, (WRITTEN_S, WRITTEN_S))
    try:
        yield PLACE / "scenes"
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
