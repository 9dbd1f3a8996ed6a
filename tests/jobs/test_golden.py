"""What an earlier version left on disk goes on: its packages, a sink that it began, a training that was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import segment_images, train_image_segmenter
from jobs.segment_images import SegmentImages
from jobs.train_image_segmenter import TrainImageSegmenter
from pipeline import package
from pipeline.distributed.train import DistributedTrainConfig
from pipeline.errors import RequestError
from pipeline.table.readers import open_delta
from testing.equality import assert_equal_rows, table_rows
from testing.golden import GOLDEN, scenes_in_place

DIGESTS = {
    "autoencoder": json.loads((GOLDEN / "autoencoder" / "training.json").read_text())["summary"]["digest"],
    "whole": json.loads((GOLDEN / "whole" / "training.json").read_text())["summary"]["digest"],
    "tagger": json.loads((GOLDEN / "tagger" / "training.json").read_text())["summary"]["digest"],
}


@pytest.fixture(scope="module")
def scenes() -> Iterator[Path]:
    with scenes_in_place() as folder:
        yield folder


@pytest.mark.parametrize("name", DIGESTS)
def test_packages_load_with_their_digests(name: str) -> None:
    found = package.load(str(GOLDEN / name))
    assert found.digest == DIGESTS[name]
    found.model()


@pytest.mark.ray
def test_a_sink_is_continued(cluster: None, scenes: Path, tmp_path: Path) -> None:
    """Five of eleven inputs were done; the rest are done now, and all are those of a whole run of then."""
    shutil.copytree(GOLDEN / "sink", tmp_path / "sink")
    before = table_rows(str(tmp_path / "sink"))
    settings = SegmentImages(source=str(scenes / "images"), model=str(GOLDEN / "whole"), sink=str(tmp_path / "sink"))
    summary = segment_images.work(settings)
    assert (summary["exit_code"], summary["skipped"], summary["done"], summary["removed"]) == (0, 5, 6, 0)
    rows, expected = table_rows(str(tmp_path / "sink")), table_rows(str(GOLDEN / "sink-whole"))
    assert [row["uri"] for row in rows] == [row["uri"] for row in expected]
    added = rows[0].keys() - expected[0].keys()
    assert {row.pop(name) for row in rows for name in added} == {None}, "columns that came later"
    for mine, theirs in zip(rows, expected, strict=True):
        assert_equal_rows(mine, theirs)
    assert all(row in rows for row in before), "what was there is as it was"
    assert open_delta(str(tmp_path / "sink")).version() > open_delta(str(GOLDEN / "sink")).version()
    again = segment_images.work(settings)
    assert (again["skipped"], again["pending"]) == (11, 0)


def training(scenes: Path, out: Path, **changes: Any) -> TrainImageSegmenter:
    """The command of ``tests/golden/make.py``."""
    train = DistributedTrainConfig(**{"epochs": 60, "batch_rows": 4, "threads": 1, "checkpoint_s": 0.0, **changes})
    start = {"init": str(GOLDEN / "autoencoder"), "novelty": str(GOLDEN / "autoencoder")}
    box: dict[str, Any] = {"height_px": 24, "width_px": 32, "recipe": "none", "baseline": "none"}
    return TrainImageSegmenter(images=str(scenes), out=str(out), train=train, **box, **start)


@pytest.mark.ray
def test_a_training_is_resumed(cluster: None, scenes: Path, tmp_path: Path) -> None:
    """From its checkpoint after step 3; its losses and its package are those of the whole training of then."""
    shutil.copytree(GOLDEN / "stopped", tmp_path / "out")
    summary = train_image_segmenter.work(training(scenes, tmp_path / "out"))
    whole = json.loads((GOLDEN / "whole" / "training.json").read_text())["summary"]
    assert (summary["resumed_from_step"], summary["steps"]) == (3, whole["steps"])
    assert summary["metrics"] == pytest.approx(whole["metrics"], abs=2e-3)
    mine, theirs = (
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "out", GOLDEN / "whole")
    )
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["exit_code"] == 0


@pytest.mark.ray
def test_a_finished_training_is_found_and_another_is_refused_by_its_setting(
    cluster: None, scenes: Path, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / "stopped", tmp_path / "out")
    shutil.copytree(GOLDEN / "whole", tmp_path / "out", dirs_exist_ok=True)
    assert train_image_segmenter.work(training(scenes, tmp_path / "out"))["digest"] == DIGESTS["whole"]
    with pytest.raises(RequestError, match=r"holds another training; .*: train.learning_rate was 0.001, now 0.002"):
        train_image_segmenter.work(training(scenes, tmp_path / "out", learning_rate=0.002))
