"""The demonstration: short, on the session's cluster; and as a user runs it, whole, on one CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import demo
from testing.equality import table_rows
from testing.jobs import call_job
from testing.processes import run_job
from tests.jobs.conftest import SCENES, Demonstration

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def check(summary: dict[str, Any], said: str, scenes: int) -> None:
    """Tables with a row for each input, broken ones among them, and a page that shows them."""
    assert (summary["images"]["done"], summary["images"]["failed"]) == (scenes, 3)
    assert (summary["documents"]["done"], summary["documents"]["failed"]) == (10, 2)
    assert summary["documents"]["at_once"] == 10
    assert [len(table_rows(table.removesuffix("/table"))) for table in summary["tables"]] == [scenes + 3, 12]
    page = Path(summary["report"]).read_text()
    for text in ("synthetic", "truth", "reconstruction", "Paragraphs of", "truncated", "bad_encoding"):
        assert text in page
    assert "table " in said


def test_the_demonstration_ends_with_tables_and_a_page(demonstration: Demonstration) -> None:
    check(demonstration.summary, demonstration.said, SCENES["test"])


@pytest.mark.heavy
def test_the_whole_demonstration_on_one_cpu(tmp_path: Path) -> None:
    code, summary, err = run_job("demo", "--out", str(tmp_path / "demo"), "--cluster.cpus", "1", timeout_s=580)
    assert code == 0, err[-3000:]
    check(summary, err, demo.SCENES["test"])
    assert summary["images"]["trained"] > 0.5
    noise = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    (tmp_path / "strange").mkdir()
    Image.fromarray(noise).save(tmp_path / "strange" / "noise.png")
    given = ["--source", str(tmp_path / "strange"), "--model", str(tmp_path / "demo" / "segmenter")]
    code, _, err = run_job("segment_images", *given, "--sink", str(tmp_path / "sink"), "--cluster.cpus", "1")
    assert code == 0, err[-3000:]
    (strange,) = table_rows(str(tmp_path / "sink"))
    familiar = [row for row in table_rows(str(tmp_path / "demo" / "masks")) if row["error"] is None]
    assert strange["novelty"] is None, "no percentile is told among fewer than 100 held-out images"
    assert strange["novelty_raw"] > max(row["novelty_raw"] for row in familiar)


@pytest.mark.parametrize("option", ["images", "documents"])
def test_data_of_the_users_own_are_not_deleted_with_an_earlier_demonstration(tmp_path: Path, option: str) -> None:
    (tmp_path / ".parquetry-demo").touch()
    (tmp_path / "mine").mkdir()
    code, summary, _ = call_job("demo", "--out", str(tmp_path), f"--{option}", str(tmp_path / "mine"))
    assert (code, f"Demo.{option} must be outside of out" in summary["error"]) == (2, True)
    assert (tmp_path / "mine").exists()
