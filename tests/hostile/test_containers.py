"""Containers changed at random: the sound file beside each has its row, and nothing else happens."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testing.equality import table_rows
from testing.hostile.container_mutants import CHANGES, mutant
from testing.hostile.container_trials import SOUND, trial
from testing.hostile.corpus import encoded, quarters
from testing.jobs import call_job
from testing.processes import ROOT
from tests.hostile.test_run import write_package

RUN_MUTANTS, RUNS = 200, 4


def test_a_changed_container_leaves_the_file_beside_it(tmp_path: Path) -> None:
    problems = []
    for number in range(300):
        made = mutant(0, number)
        problems += [f"{number}, {made.suffix}, {made.changes}: {item}" for item in trial(made, tmp_path).problems]
    assert problems == []


def test_a_mutant_can_be_made_again_and_every_change_is_made() -> None:
    made = [mutant(3, number) for number in range(400)]
    assert made == [mutant(3, number) for number in range(400)]
    assert set(CHANGES) <= {change for item in made for change in item.changes}


def test_what_a_trial_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial would see an exception that escapes, an execution, and a file that is left behind."""
    sound = mutant(0, next(number for number in range(99) if mutant(0, number).suffix == ".parquet"))
    assert trial(sound, tmp_path).problems == []

    def escapes(*_: object) -> None:
        subprocess.run(["true"], check=True)
        (tmp_path / "left").write_bytes(b"")
        raise OSError("as a damaged file could raise it")

    monkeypatch.setattr("testing.hostile.container_trials.fetch", escapes)
    found = " ".join(trial(sound, tmp_path).problems)
    for word in ("OSError escaped", "ran subprocess.Popen", "no row", "left behind"):
        assert word in found


def test_a_file_that_names_a_pickling_type_runs_nothing(tmp_path: Path) -> None:
    import ray.data.extensions

    ray.data.extensions.ArrowPythonObjectType()
    out = io.BytesIO()
    field = pa.field("text", pa.string(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object"})
    pq.write_table(pa.table({"text": ["a"]}, schema=pa.schema([field])), out)
    made = replace(mutant(0, 0), kind="document", suffix=".parquet", data=out.getvalue())
    found = trial(made, tmp_path)
    assert found.problems == []
    assert set(found.codes) == {"done", "bad_archive"}


@pytest.mark.heavy
@pytest.mark.slow
def test_twenty_thousand_changed_containers() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz_containers", "--files", "20000", "--no-record"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("part", range(RUNS))
@pytest.mark.parametrize(("kind", "job"), [("image", "segment_images"), ("document", "segment_documents")])
def test_whole_runs_over_changed_containers(cluster: None, tmp_path: Path, kind: str, job: str, part: int) -> None:
    """Each run has 25 changed containers beside a sound file, which is done; every failed row has a known code."""
    chosen = [made for made in (mutant(1, number) for number in range(2000)) if made.kind == kind]
    count = RUN_MUTANTS // (2 * RUNS)
    source = tmp_path / "in"
    source.mkdir()
    name, data = ("sound.png", encoded(quarters(), "PNG")) if kind == "image" else ("sound.txt", SOUND)
    (source / name).write_bytes(data)
    for number, made in enumerate(chosen[part * count : (part + 1) * count]):
        (source / f"{number:03d}{made.suffix}").write_bytes(made.data)
    given = ["--source", str(source), "--model", write_package(tmp_path / "package", kind)]
    given += ["--sink", str(tmp_path / "sink"), "--max-error-rate", "1"]
    code, summary, said = call_job(job, *given)
    assert code == 0, said[-3000:]
    assert "Traceback" not in said
    rows = table_rows(str(tmp_path / "sink"))
    found = {(row["uri"], row["member"]): row for row in rows}
    assert len(found) == len(rows) == summary["listed"]
    assert found[str(source / name), None]["error"] is None
    assert "internal" not in {row["error"]["code"] for row in found.values() if row["error"]}
