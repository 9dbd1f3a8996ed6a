"""What tests of runs and of their tables share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline import storage


@pytest.fixture
def part_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Parquet files of tables that this process reads from now on, whole or in pieces."""
    found: list[str] = []

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(uri: str, *arguments: Any) -> Any:
            found.extend([uri] if "/table/" in uri and uri.endswith(".parquet") else [])
            return read(uri, *arguments)

        return counted

    for name in ("read", "open_file"):
        monkeypatch.setattr(storage, name, counting(getattr(storage, name)))
    return found
