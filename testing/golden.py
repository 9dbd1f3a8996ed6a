"""Files that an earlier version has written (``tests/golden``): packages, tables, and an interrupted training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "0.1.0"
#: Folder and modification time of the scenes when the earlier version read them. The golden table and training contain
#: both.
PLACE = Path("/tmp/parquetry-golden")
WRITTEN_S = 1_700_000_000


@contextmanager
def scenes_in_place() -> Iterator[Path]:
    """Copy the scenes to the folder, and give them the times, that the golden table and training contain."""
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(GOLDEN / "scenes", PLACE / "scenes")
    for path in (PLACE / "scenes").rglob("*"):
        os.utime(path, (WRITTEN_S, WRITTEN_S))
    try:
        yield PLACE / "scenes"
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
