"""The life of a job: what ends it becomes a status and an exit code, and its folder is free again afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ERROR_BUDGET, JobFailed, RequestError, Stopped
from pipeline.runs.counts import ErrorBudgetSpent, RunCounts
from pipeline.runs.life import Life, outcome_of
from pipeline.table import lease
from pipeline.table.names import run_name


def raising(reason: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise reason

    return run


@pytest.mark.parametrize(
    ("run", "status", "exit_code", "error"),
    [
        (lambda: None, "done", 0, None),
        (raising(ErrorBudgetSpent("too many")), "error budget spent", 3, "too many"),
        (raising(lease.LeaseLost("another run")), "lease lost", 1, "another run"),
        (raising(JobFailed("cannot\n  go on")), "failed", 1, "cannot go on"),
        (raising(Stopped(2)), "stopped", 130, "stopped by SIGINT"),
        (raising(Stopped(15)), "stopped", 143, "stopped by SIGTERM"),
        (raising(KeyError("x")), "failed", 1, "KeyError: 'x'"),
    ],
)
def test_what_ends_a_job_is_told_and_sets_the_folder_free(
    tmp_path: Path, run: Callable[[], None], status: str, exit_code: int, error: str | None
) -> None:
    life = Life(str(tmp_path / "sink"), "run-1", 30)
    life.begin()
    outcome = life.work(run)
    assert (outcome.status, outcome.exit_code, outcome.error) == (status, exit_code, error)
    where = tmp_path / "sink" / "runs" / "summary.json"
    life.finish(str(where), {"done": 3, **outcome.summary()})
    found: dict[str, Any] = {"done": 3, "status": status, "exit_code": exit_code}
    assert json.loads(where.read_text()) == found | ({"error": error} if error else {})
    second = Life(str(tmp_path / "sink"), "run-2", 30)
    assert second.begin().number == 2
    second.finish(str(where), {})


def test_a_wrong_request_writes_no_summary_and_sets_the_folder_free(tmp_path: Path) -> None:
    life = Life(str(tmp_path), "run-1", 30)
    life.begin()
    with pytest.raises(RequestError, match="no such thing"):
        life.work(raising(RequestError("no such thing")))
    Life(str(tmp_path), "run-2", 30).begin().release()


def test_a_folder_in_use_is_refused_by_the_option_that_names_it(tmp_path: Path) -> None:
    held = lease.acquire(str(tmp_path), "the-other", 30)
    with pytest.raises(RequestError, match=r"out '.*' is in use by run the-other \(host "):
        Life(str(tmp_path), "training", 30, option="out").begin()
    held.release()


def test_other_exceptions_name_their_class() -> None:
    assert outcome_of(ValueError("\x1b[31mred\x1b[0m")).error == "ValueError: red"


def test_counts_become_the_summary() -> None:
    counts = RunCounts(listed=5, pending=5)
    counts.add(rows=3, failed=["empty"], fetched_bytes=10, stage_seconds={"fetch": 0.12345})
    counts.add(rows=2, failed=["empty", "timeout"], fetched_bytes=5, stage_seconds={"fetch": 1.0})
    found = counts.summary()
    assert (found["done"], found["failed"], found["errors"]) == (2, 3, {"empty": 2, "timeout": 1})
    assert (found["fetched_bytes"], found["stage_seconds"]) == (15, {"fetch": 1.123})
    assert counts.progress() == "5 of 5 inputs, 3 of them failed"
    counts.check_budget(max_error_rate=0.5, error_floor=3)
    counts.check_budget(max_error_rate=0.6, error_floor=2)
    with pytest.raises(ErrorBudgetSpent, match=r"3 of 5 inputs failed, more than max_error_rate 0.5 allows") as caught:
        counts.check_budget(max_error_rate=0.5, error_floor=2)
    assert caught.value.exit_code == ERROR_BUDGET


def test_inputs_that_are_not_for_the_task_spend_no_budget() -> None:
    counts = RunCounts(listed=12, pending=12)
    counts.add(rows=10, failed=["other_data"] * 8, fetched_bytes=0, stage_seconds={})
    counts.check_budget(max_error_rate=0.1, error_floor=0)
    counts.add(rows=2, failed=["empty"], fetched_bytes=0, stage_seconds={})
    with pytest.raises(ErrorBudgetSpent, match=r"1 of 4 inputs failed, .*{'empty': 1}"):
        counts.check_budget(max_error_rate=0.1, error_floor=0)


def test_a_run_is_named_after_all_before_it_whatever_the_clock() -> None:
    first = run_name("")
    assert run_name(first) > first
    future = "29991231T000000.000000Z-ffff"
    names = [future]
    for _ in range(3):
        names.append(run_name(names[-1]))
    assert names == sorted(set(names))
