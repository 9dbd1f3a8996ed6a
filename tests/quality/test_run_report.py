"""The page of a run says what its rows say."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.quality.distributions import Reading, nearest
from pipeline.quality.report import Described, own_parts, run_report
from pipeline.runs.gone import NAMES as NAMES_OF_INPUTS
from pipeline.runs.gone import store_gone
from pipeline.table.readers import parts_of
from testing.equality import table_rows
from testing.reports import TASK, synthetic_run
from tests.quality.test_pages import Elements

NAMES = ("<img src=x onerror=alert(1)>.jpg", "\"quotes' & ampersands.jpg", "\u202egpj.exe.jpg", "n" * 200 + ".jpg")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Described, dict[str, Any], Described, dict[str, Any]]:
    """Two runs of one sink: the second has hostile names, and its images are surer and less novel."""
    place = tmp_path_factory.mktemp("report")
    size = {"height": 48, "width": 64}
    first, its_summary = synthetic_run(place, 300, **size)
    run_report(first, its_summary)
    second, summary = synthetic_run(place, 600, seed=1, shift=0.4, names=NAMES, **size)
    return place, first, its_summary, second, summary


def test_numbers_are_those_of_the_summary_and_of_the_table(made: Any) -> None:
    place, _, _, run, summary = made
    page = Path(run_report(run, summary))
    found = Elements(page.read_text())
    said = " ".join(found.said)
    for value in ("1,100", "500", "588", "98.0% of this run", "12"):
        assert value in said
    rows = [row for row in table_rows(str(place / "sink")) if row["run_id"] == run.run_id]
    codes = Counter(row["error"]["code"] for row in rows if row["error"])
    stored = json.loads((Path(run.folder) / "statistics.json").read_text())
    assert (stored["rows"], stored["failed"], stored["errors"]) == (600, 12, dict(codes))
    good = [row for row in rows if row["error"] is None]
    pixels = np.sum([row["class_pixels"] for row in good], 0).tolist()
    assert [item["pixels"] for item in stored["classes"]] == pixels
    dominant = Counter(int(np.argmax(row["class_pixels"])) for row in good)
    assert [item["dominant"] for item in stored["classes"]] == [dominant[index] for index in range(5)]
    confidence = np.array([row["confidence"] for row in good], np.float64)
    assert stored["measures"]["confidence"] == np.histogram(confidence, 100, (0, 1))[0].tolist()
    for code, count in codes.items():
        assert f"{code} {count}" in said
    messages = {row["error"]["message"] for row in rows if row["error"]}
    shown = [text for text in found.said if text.endswith("is damaged")]
    assert len(shown) == sum(min(5, count) for count in codes.values())
    assert set(shown) <= messages
    assert page.stat().st_size < 2 << 20


def test_inputs_that_are_gone_are_named(made: Any) -> None:
    _, _, _, run, summary = made
    names = [f"/inbox/{number:02d}.jpg" for number in range(40)]
    store_gone(run.folder, pa.table([names, pa.nulls(40, pa.string())], schema=NAMES_OF_INPUTS))
    said = Elements(Path(run_report(run, summary | {"gone": 40})).read_text()).said
    assert f"python -m jobs.forget --sink {run.sink} --gone" in " ".join(said)
    assert [text for text in said if text.startswith("/inbox/")] == names[:36]
    assert "/inbox/00.jpg" not in Path(run_report(run, summary | {"gone": 0})).read_text()


def test_drift_against_the_earlier_run_is_named(made: Any) -> None:
    _, _, _, run, summary = made
    said = " ".join(Elements(Path(run_report(run, summary)).read_text()).said)
    assert "against the last 1 runs of the same model" in said
    assert "These have moved: Confidence" in said


def test_hostile_names_and_classes_stay_texts(made: Any) -> None:
    _, _, _, run, summary = made
    classes = ("<script>alert(1)</script>", '"', "\u202e", "c" * 300, "</style>")
    hostile = dataclasses.replace(run, task=dataclasses.replace(TASK, classes=classes))
    summary = summary | {"passed_over": {"<b>": 3}, "other_tools": ["<b>"], "status": "stopped <b>", "error": "<b>"}
    page = Path(run_report(hostile, summary)).read_text()
    found = Elements(page)
    assert (found.count("script"), found.count("b"), found.handlers) == (1, 0, [])
    said = " ".join(found.said)
    assert "<script>alert(1)</script>" in said
    assert "stopped <b>" in said


def test_an_image_that_is_gone_is_shown_by_its_mask_alone(made: Any) -> None:
    place, run, summary, _, _ = made
    for path in (place / "images").glob("0*.jpg"):
        path.unlink()
    said = " ".join(Elements(Path(run_report(run, summary)).read_text()).said)
    assert "the mask alone" in said
    assert "There is no earlier run" in said


def test_the_sample_is_spread_and_the_extremes_are_exact(made: Any) -> None:
    place, _, _, run, _ = made
    parts = own_parts(parts_of(str(place / "sink")), run.run_id)
    reading = Reading(str(place / "sink/table"), parts, run.run_id, shown=5, deadline_s=60)
    rows = [row for row in table_rows(str(place / "sink")) if row["run_id"] == run.run_id and not row["error"]]
    for name in ("uncertainty", "novelty"):
        found = [getattr(item, name) for item in (reading.uncertain if name == "uncertainty" else reading.novel)]
        assert found == sorted((row[name] for row in rows), reverse=True)[:5]
    sample = reading.stratified(20)
    assert len({item.uri for item in sample}) == 20
    shares = Counter(item.dominant for item in sample)
    assert min(shares.values()) >= 20 // len(shares) - 1
    confidence = sorted(row["confidence"] for row in rows)
    assert min(item.confidence or 0 for item in sample) < confidence[len(rows) // 10]
    assert max(item.confidence or 0 for item in sample) > confidence[-len(rows) // 10]
    whole = reading.rows([sample[0].place])
    assert whole[sample[0].place]["uri"] == sample[0].uri


def test_out_of_time_the_page_says_how_much_it_has_read(made: Any) -> None:
    _, _, _, run, summary = made
    said = " ".join(Elements(Path(run_report(run, summary, reading_s=-1)).read_text()).said)
    assert "of 1 of the run's 5 parts" in said
    stored = json.loads((Path(run.folder) / "statistics.json").read_text())
    assert (stored["complete"], stored["rows"] < 600) == (False, True)


def test_similar_rows_are_those_with_the_largest_cosine() -> None:
    others = np.array([[1, 0], [0, 1], [2, 2], [-1, 0]], np.float32)
    first, cosines = nearest(np.array([3, 0], np.float32), others, 2)
    assert first.tolist() == [0, 2]
    assert cosines.tolist() == pytest.approx([1, 0.5**0.5])
