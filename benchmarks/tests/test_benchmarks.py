"""Benchmarks run, in their small version, and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bulk_images, document_training
from benchmarks.measures import document_sets
from testing.processes import ROOT


def test_books_to_choose_by_are_never_those_of_val(tmp_path: Path) -> None:
    source = tmp_path / "books.jsonl"
    lines = [{"title": f"Book {n % 9}", "split": "train" if n % 9 < 6 else "val", "text": str(n)} for n in range(27)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    held = []
    for fold in range(document_training.FOLDS):
        out = document_training.hold_out(source, fold, tmp_path / str(fold) / "books.jsonl")
        found = list(document_sets.records(out))
        assert {item["title"] for item in found} == {f"Book {n}" for n in range(6)}
        titles = {split: {item["title"] for item in found if item["split"] == split} for split in ("train", "val")}
        assert not titles["train"] & titles["val"]
        held += sorted(titles["val"])
        before = out.stat().st_mtime_ns
        document_training.hold_out(source, fold, out)
        assert out.stat().st_mtime_ns == before
    assert sorted(held) == [f"Book {n}" for n in range(6)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.heavy
def test_bulk_images_says_where_the_time_goes() -> None:
    command = [sys.executable, "-m", "benchmarks.bulk_images", "--small"]
    if not (ROOT / ".bench" / "peers" / "cv2").is_dir():
        pytest.skip("the peers' packages are not there; python -m benchmarks.bulk_images --help says how to get them")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "bulk_images-small.json").read_text())
    arms = {row["arm"]: row for row in found["rows"]}
    assert set(arms) == {*bulk_images.OURS, *bulk_images.PEERS, "limit", "limit, float32"}
    assert all(row["images/s"] > 0 and row["peak MiB"] > 0 for name, row in arms.items() if "limit" not in name)
    assert found["headline"]["best_peer_nearly_empty_net"] > 0
    assert set(found) >= {"command", "date", "machine", "versions", "protocol"}


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.heavy
def test_chaos_finds_nothing_lost_doubled_or_wrong(s3_environment: object) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "chaos-small.json").read_text())
    assert found["headline"] == {"runs": 3, "lost": 0, "doubled": 0, "wrong": 0}
    faults = {row["fault"]: row for row in found["rows"]}
    assert faults["driver killed"]["kills"] >= 1
    assert faults["store does all of it"]["requests_with_faults"] >= 3


@pytest.mark.slow
@pytest.mark.heavy
def test_the_regions_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.regions", "--small", "--work", str(tmp_path)]
    for _ in range(2):  # the second finds what the first has left
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "regions-small.json").read_text())
    assert [row["seed"] for row in found["rows"]] == [0]
    assert -0.5 <= found["headline"]["foreground_ari"] <= 1


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("name", ["downloads", "listing"])
def test_storage_benchmarks_run(name: str, s3_environment: object) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name}-small.json").read_text())
    assert all(value > 0 for value in found["headline"].values())


@pytest.mark.slow
@pytest.mark.heavy
def test_a_night_on_a_compacted_table() -> None:
    command = [sys.executable, "-m", "benchmarks.night", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "night-small.json").read_text())
    files = [row["files"] for row in found["rows"] if row["what"] == "committed parts"]
    assert files == [391, 1]
    assert all(value > 0 for value in found["headline"].values())


@pytest.mark.slow
@pytest.mark.heavy
def test_the_generative_table_has_every_part(data: Path, tmp_path: Path) -> None:
    if not (data / "mnist").is_dir():
        pytest.skip("no mnist")
    command = [sys.executable, "-m", "benchmarks.generative", "--small", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "generative-small.json").read_text())
    assert {row["part"] for row in found["rows"]} == {
        *("likelihood", "generation", "sparsity", "novelty", "classification")
    }
    names = ("nll_flat", "nll_ladder", "fld_plain", "fld_best", "sharpness_best", "error_100", "novelty_auroc_min")
    assert all(found["headline"][name] > 0 for name in names)
    assert len(list(tmp_path.rglob("pictures/*.png"))) == 16


@pytest.mark.slow
@pytest.mark.heavy
def test_classification_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    if not (data / "mnist").is_dir():
        pytest.skip("no mnist")
    command = [sys.executable, "-m", "benchmarks.classification", "--small", "--held-out", "--work", str(tmp_path)]
    outputs = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        outputs.append(json.loads(done.stdout))
    assert outputs[0] == outputs[1]
    assert "M1" not in done.stderr, "nothing was trained again"
    *rows, headline = outputs[0]
    assert {(row["labels"], row["seed"]) for row in rows if row["classifier"] == "m1+m2"} == {
        *((count, seed) for count in (100, 1000) for seed in (0, 1, 2)),
        (3000, 0),
    }
    errors = [row["error"] for row in rows if row["labels"] == 100 and row["classifier"] == "m1+m2"]
    assert headline["error_100"] == pytest.approx(sum(errors) / 3)
    assert all(0 < row["error"] < 0.6 for row in rows if row["classifier"] == "linear probe")


@pytest.mark.slow
@pytest.mark.heavy
def test_nights_on_one_table_do_not_get_slower() -> None:
    command = [sys.executable, "-m", "benchmarks.many_nights", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "many_nights-small.json").read_text())["headline"]
    assert found["CPU of the start, times the first, day"] < 2
    assert found["most part files, day"] < 110
    assert found["versions, day"] > 100 > found["commits since the checkpoint, day"]
