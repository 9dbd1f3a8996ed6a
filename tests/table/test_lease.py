"""The lease: one holder, whatever dies; and the table's refusal of whoever lost it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.table import lease, log
from pipeline.table.lease import LeaseLost
from tests.table.test_delta import A, add, held, opened, rows


def record(sink: Path, number: int) -> dict:
    return json.loads((sink / "lease" / f"{number:012d}.json").read_text())


def holder(sink: Path) -> str | None:
    """The run that has the newest lease, or None where it was released."""
    newest = json.loads(max((sink / "lease").iterdir()).read_text())
    return None if newest["released"] else newest["run_id"]


def forge(sink: Path, number: int, **changes: object) -> dict:
    """A lease of another machine."""
    values = {"run_id": "other-run", "host": "elsewhere", "process": "p", "pid": 1, "pid_started": "1", "lease_s": 0.6}
    values |= {"renewals": 0, "released": False, "token": "t"} | changes
    storage.write(str(sink / "lease" / f"{number:012d}.json"), json.dumps(values).encode())
    return values


def test_numbers_grow_and_a_released_lease_is_free(tmp_path: Path) -> None:
    for number in range(1, 5):
        mine = lease.acquire(str(tmp_path), f"run-{number}", 30)
        assert mine.number == number
        assert holder(tmp_path) == f"run-{number}"
        mine.release()
        assert holder(tmp_path) is None
    assert sorted(path.name for path in (tmp_path / "lease").iterdir()) == ["000000000003.json", "000000000004.json"]


def test_a_living_holder_is_named(tmp_path: Path) -> None:
    mine = lease.acquire(str(tmp_path), "the-first", 30)
    started = time.monotonic()
    with pytest.raises(RequestError, match=rf"in use by run the-first \(host .+, process {os.getpid()}\)"):
        lease.acquire(str(tmp_path), "the-second", 30)
    assert time.monotonic() - started < 20
    mine.release()


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    acquire = f"lease.acquire({str(tmp_path)!r}, 'dead', 3600)"
    code = f"from pipeline.table import lease; import os; {acquire}; os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert holder(tmp_path) == "dead"
    started = time.monotonic()
    mine = lease.acquire(str(tmp_path), "next", 3600)
    assert (mine.number, time.monotonic() - started < 60) == (2, True)
    mine.release()


def test_a_process_that_took_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    here = {"host": lease.socket.gethostname(), "process": lease._process(), "pid": os.getpid()}
    forge(tmp_path, 1, **here, pid_started="long ago", lease_s=3600)
    mine = lease.acquire(str(tmp_path), "next", 30)
    assert mine.number == 2
    mine.release()


def test_another_machine_has_one_lease_time(tmp_path: Path) -> None:
    forge(tmp_path, 7)
    started = time.monotonic()
    mine = lease.acquire(str(tmp_path), "next", 30)
    assert mine.number == 8
    assert 0.6 <= time.monotonic() - started < 10
    mine.release()


def test_another_machine_that_renews_is_alive(tmp_path: Path) -> None:
    values = forge(tmp_path, 1, lease_s=2.0)
    timer = threading.Timer(0.5, lambda: forge(tmp_path, 1, **(values | {"renewals": 1})))
    timer.start()
    with pytest.raises(RequestError, match="in use by run other-run"):
        lease.acquire(str(tmp_path), "next", 30)
    timer.join()


def test_renewing_goes_on_and_a_loss_is_noticed(tmp_path: Path) -> None:
    mine = lease.acquire(str(tmp_path), "mine", 0.3)
    end = time.monotonic() + 10
    while record(tmp_path, 1)["renewals"] < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert record(tmp_path, 1)["renewals"] >= 3
    mine.check()
    forge(tmp_path, 2)
    end = time.monotonic() + 10
    while not mine._lost.is_set() and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(LeaseLost):
        mine.check()
    mine.release()
    assert not record(tmp_path, 1)["released"]  # the number is no longer its own


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    won: list[lease.Lease] = []
    refused: list[str] = []

    def race(number: int) -> None:
        try:
            won.append(lease.acquire(str(tmp_path), f"run-{number}", 30))
        except RequestError as reason:
            refused.append(str(reason))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 11)
    won[0].release()


def test_who_lost_the_lease_commits_nothing(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    first.fence(1, "1")
    add(first, rows(["a"], "1"))
    second.fence(2, "2")
    # It has not looked at the table since; and it has looked.
    for _ in range(2):
        with pytest.raises(LeaseLost):
            add(first, rows(["b"], "1"))
    with pytest.raises(LeaseLost):
        first.fence(1, "1")
    add(second, rows(["c"], "2"))
    assert [row[0] for row in held(tmp_path)] == ["a", "c"]


def test_a_commit_whose_answer_is_lost_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = opened(tmp_path)
    table.fence(1, "1")
    real = type(table.commits.delta).create_write_transaction
    failures = [OSError("reset"), OSError("reset")]

    def lossy(self: object, *arguments: object, **settings: object) -> None:
        if len(failures) == 2:  # arrives, but nobody says so
            real(self, *arguments, **settings)
        if failures:
            raise failures.pop()
        real(self, *arguments, **settings)

    monkeypatch.setattr(type(table.commits.delta), "create_write_transaction", lossy)
    add(table, rows(["a"], "1"))
    add(table, rows(["b"], "1"))  # fails before it arrives, once
    assert [row[0] for row in held(tmp_path)] == ["a", "b"]
    assert not failures


def test_orphans_of_ended_runs_leave_and_others_stay(tmp_path: Path) -> None:
    table = opened(tmp_path)
    add(table, rows(["seen"], "run-a"))
    orphan = table.write_part(rows(["orphan"], "run-a"), "run-a", A)
    living = table.write_part(rows(["living"], "run-b"), "run-b", A)
    assert table.remove_orphans(["run-a"]) == 1
    assert not (tmp_path / "table" / orphan.path).exists()
    assert (tmp_path / "table" / living.path).exists()
    assert [row[0] for row in held(tmp_path)] == ["seen"]


def test_a_place_that_cannot_be_written_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RequestError, match=rf"out '{place}' cannot be written: {tmp_path}/file is no folder"):
            lease.acquire(str(place), "r", 1.0, option="out")
    with pytest.raises(RequestError, match=r"sink '/proc/x' cannot be written"):
        lease.acquire("/proc/x", "r", 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_table_needs_a_store_that_can_keep_it() -> None:
    with pytest.raises(RequestError, match=r"tables cannot be kept at memory://"):
        log.opened("memory://x/table")


def test_a_submitted_job_must_not_write_to_its_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lease.check_place("out", "sink")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for place in ("out", "./out", "file://out", str(tmp_path / "out")):
        with pytest.raises(RequestError, match=r"sink '.*out': a submitted job must write to an absolute path"):
            lease.check_place(place, "sink")
    for place in (str(tmp_path.parent / "out"), "~/out", "s3://bucket/out"):
        lease.check_place(place, "sink")
