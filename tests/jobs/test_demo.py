"""The demonstration, whole, on one CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.equality import table_rows
from testing.processes import run_job


@pytest.mark.ray
@pytest.mark.slow
def test_the_demonstration_ends_with_tables_and_a_page(tmp_path: Path) -> None:
    code, summary, err = run_job("demo", "--out", str(tmp_path / "demo"), "--cluster.cpus", "1", timeout_s=580)
    assert code == 0, err[-3000:]
    assert (summary["images"]["done"], summary["images"]["failed"]) == (24, 3)
    assert (summary["documents"]["done"], summary["documents"]["failed"]) == (10, 2)
    assert summary["images"]["trained"] > 0.5
    assert [len(table_rows(table.removesuffix("/table"))) for table in summary["tables"]] == [27, 12]
    page = Path(summary["report"]).read_text()
    for text in ("synthetic", "truth", "reconstruction", "Paragraphs of", "truncated", "bad_encoding"):
        assert text in page
    assert "table " in err
