"""Nights: what is new in several sources, new models that must pass gates, and what a scheduler sees."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import parse
from jobs.nightly import Nightly
from pipeline.quality.audit import audit
from pipeline.quality.comparison import Gates
from pipeline.runs.nights import Prices, exit_code, seconds_until
from pipeline.table import lease
from testing.equality import table_rows
from testing.jobs import call_job
from testing.processes import ROOT
from testing.runs import write_images, write_package

SOURCE = {"kind": "images", "source": "somewhere", "model": "package", "sink": "sink"}


def night(place: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return call_job("nightly", "--config", str(place / "night.yaml"), *arguments)


def write_night(place: Path, model: str, **changes: Any) -> None:
    common = {"kind": "images", "model": model, "pilot_inputs": 12}
    small = {"stream": {"actors": 1, "batch_rows": 4, "block_rows": 8}}
    sources = {
        "day": common | {"source": str(place / "day"), "sink": str(place / "sink"), "settings": small},
        "other": common | {"source": str(place / "other"), "sink": str(place / "sink-other"), "settings": small},
    }
    content = {"folder": str(place / "nights"), "sources": sources, "gates": {"min_mean_iou": 0.9}} | changes
    (place / "night.yaml").write_text(yaml.safe_dump(content))


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes what is posted to it."""
    taken: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", taken
        server.shutdown()


@pytest.mark.ray
def test_four_nights(cluster: None, tmp_path: Path) -> None:
    day, other = write_images(tmp_path / "day", 30), write_images(tmp_path / "other", 5, seed=1)
    old, new = (write_package(tmp_path / f"package-{seed}", seed) for seed in (0, 1))
    sink = str(tmp_path / "sink")
    write_night(tmp_path, old)

    # The first night: everything.
    with webhook() as (url, taken):
        code, summary, err = night(tmp_path, "--webhook", url)
    assert code == 0, err
    assert {name: found["done"] for name, found in summary["sources"].items()} == {"day": 30, "other": 5}
    assert taken[0]["sources"]["day"]["done"] == 30
    folder = tmp_path / "nights" / "nights" / summary["night"]
    assert json.loads((folder / "summary.json").read_text())["exit_code"] == 0
    assert "day: done" in (folder / "summary.txt").read_text()
    assert "Night" in Path(summary["report"]).read_text()

    # The second: some changed, some broken, one deleted, and a source that is down.
    write_images(day, 3, seed=7)
    for number in (10, 11):
        (day / f"{number:04d}.png").write_bytes(b"broken")
    (day / "0029.png").unlink()
    shutil.move(other, tmp_path / "away")
    code, summary, err = night(tmp_path)
    assert code == 2, err
    assert (summary["sources"]["day"]["done"], summary["sources"]["day"]["failed"]) == (3, 2)
    assert summary["sources"]["other"]["status"] == "wrong request"
    assert "other" in summary["sources"]["other"]["error"]
    shutil.move(tmp_path / "away", other)
    assert len(table_rows(sink)) == 30, "the row of the deleted input stays"

    # The third: a model that a gate refuses. The old rows stay current, and new inputs get the old model.
    (day / "new.png").write_bytes((day / "0001.png").read_bytes())
    write_night(tmp_path, new)
    code, summary, err = night(tmp_path, "--only", "day")
    found = summary["sources"]["day"]
    assert (code, found["exit_code"], found["done"]) == (4, 4, 1), err
    assert "the mean IoU with the old model is" in found["gates"][0]
    assert found["compared"]["pairs"] == 12
    assert {row["model"] for row in table_rows(sink)} == {found["model"]}
    code, again, err = night(tmp_path, "--only", "day")
    assert code == 4, err
    assert again["sources"]["day"]["pilot"] == found["pilot"], "no second pilot"
    assert "was refused before" in again["sources"]["day"]["gates"][0]
    before = table_rows(sink)

    # The fourth: it is accepted, by the command that the summary names.
    command = found["to_accept"].split()
    assert command[:3] == ["python", "-m", "jobs.accept"]
    code, accepted, err = call_job("accept", *command[3:])
    assert (code, accepted["accepted"], accepted["removed"]) == (0, 12, 12), err
    rows = table_rows(sink)
    assert len(rows) == len(before)
    assert sum(row["model"] == accepted["model"] for row in rows) == 12
    assert audit(sink).summary()["problems"] == {}
    undone, _, err = call_job("restore", "--sink", sink, "--run", accepted["run_id"])
    assert undone == 0, err
    code, again, err = night(tmp_path, "--only", "day")
    assert (code, "was refused before" in again["sources"]["day"]["gates"][0]) == (4, True), err
    assert audit(sink).summary()["problems"] == {}
    assert call_job("accept", *command[3:])[0] == 0
    code, summary, err = night(tmp_path, "--only", "day")
    assert code == 0, err
    rows = table_rows(sink)
    left = [row for row in rows if row["model"] != accepted["model"]]
    assert [Path(row["uri"]).name for row in left] == ["0029.png"], "the deleted input keeps its row"
    assert audit(sink).summary()["problems"] == {}


@pytest.mark.ray
def test_a_source_that_lists_far_fewer_inputs_is_a_gate(cluster: None, tmp_path: Path) -> None:
    day = write_images(tmp_path / "day", 12)
    write_night(tmp_path, write_package(tmp_path / "package", 0))
    assert night(tmp_path, "--only", "day")[0] == 0
    for path in sorted(day.iterdir())[:8]:
        path.unlink()
    code, summary, err = night(tmp_path, "--only", "day")
    assert code == 4, err
    assert "the source lists 4 inputs, 33% of the 12 of last time" in summary["sources"]["day"]["gates"][0]
    assert "warning: day: the source lists" in err
    assert len(table_rows(str(tmp_path / "sink"))) == 12
    assert night(tmp_path, "--only", "day")[0] == 0, "it is said once"


@pytest.mark.ray
def test_a_deadline_leaves_the_rest_to_the_next_night(cluster: None, tmp_path: Path) -> None:
    write_images(tmp_path / "day", 400)
    write_images(tmp_path / "other", 2)
    write_night(tmp_path, write_package(tmp_path / "package", 0))
    code, summary, err = night(tmp_path, "--deadline", "1s")
    found = summary["sources"]
    assert (code, found["day"]["exit_code"], found["other"]["exit_code"]) == (5, 5, 5), err
    assert found["day"]["done"] < 400
    assert found["other"]["status"] == "not begun before the deadline"
    assert night(tmp_path)[0] == 0
    assert len(table_rows(str(tmp_path / "sink"))) == 400


@pytest.mark.ray
def test_a_dry_run_tells_time_and_cost(cluster: None, tmp_path: Path) -> None:
    write_images(tmp_path / "day", 6)
    write_night(tmp_path, write_package(tmp_path / "package", 0), prices={"cpu_hour": 3600.0, "currency": "EUR"})
    code, summary, _ = night(tmp_path, "--dry_run")
    assert code == 2, "one of the sources is not there"
    assert summary["sources"]["day"]["pending"] == 6
    seconds = summary["sources"]["day"]["predicted_seconds"]
    assert summary["predicted_cost"] == pytest.approx(2 * seconds, abs=1e-3), "of two CPUs"
    assert summary["currency"] == "EUR"
    assert not (tmp_path / "sink").exists()
    assert not (tmp_path / "nights").exists()


def test_a_night_without_a_cluster_has_a_summary_and_tells_the_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    write_night(tmp_path, "package")
    with webhook() as (url, taken):
        code, summary, err = night(tmp_path, "--webhook", url, "--cluster.address", "127.0.0.1:1")
    assert code == 2, err
    assert taken[0]["sources"]["day"]["error"] == "no Ray cluster at '127.0.0.1:1'"
    folder = tmp_path / "nights" / "nights" / summary["night"]
    assert json.loads((folder / "summary.json").read_text())["exit_code"] == 2


def test_a_night_refuses_to_overlap_itself(tmp_path: Path) -> None:
    write_night(tmp_path, "nowhere")
    held = lease.acquire(str(tmp_path / "nights"), "night-before", 30.0)
    try:
        code, summary, _ = night(tmp_path)
    finally:
        held.release()
    assert code == 2
    assert "night-before" in summary["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "sources must name at least one source"),
        ({"only": "nights"}, "only must name sources, which are day, other, got 'nights'"),
        ({"deadline": "25:00"}, "deadline must be a time of day such as 06:30"),
        ({"since": "yesterday"}, "since must be a date or a time in the form of ISO 8601, got 'yesterday'"),
        ({"gates": {"min_mean_iou": 2}}, "min_mean_iou must be in"),
        ({"webhook": "file:///etc/passwd"}, "webhook must begin with http:// or https://"),
        ({"sources": {"a": SOURCE | {"settings": {"storage": {}}}}}, "settings must not have storage, which the night"),
        ({"sources": {"a": SOURCE | {"settings": {"dry_run": True}}}}, "settings must not have dry_run"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_night(tmp_path, "package", **changes)
    code, summary, _ = night(tmp_path)
    assert (code, message in summary["error"]) == (2, True), summary
    assert not (tmp_path / "nights").exists()


def test_the_file_in_the_docs_is_accepted(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "nights.md").read_text()
    (tmp_path / "night.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    settings = parse(Nightly, ["--config", str(tmp_path / "night.yaml")])
    assert list(settings.sources) == ["photos", "letters"]
    assert settings.sources["photos"].settings["stream"] == {"fetch": {"threads": 32}}
    assert settings.sources["letters"].gates == Gates(min_boundary_f1=0.8)


def test_deadlines() -> None:
    now = datetime(2026, 11, 30, 22, 0)
    assert seconds_until("06:30", now) == 8.5 * 3600
    assert seconds_until("22:01", now) == 60
    assert seconds_until("22:00", now) == 24 * 3600
    assert seconds_until("1h30m", now) == 5400
    for wrong in ("", "6", "24:00", "8 h", "h", "-1h", "06:60"):
        with pytest.raises(ValueError, match="must be a time of day"):
            seconds_until(wrong, now)


def test_the_worst_source_decides_and_a_signal_before_all() -> None:
    def code(*codes: int) -> int:
        return exit_code({str(place): {"exit_code": code} for place, code in enumerate(codes)})

    assert [code(), code(0, 0), code(0, 5), code(5, 4), code(4, 3, 2), code(2, 1), code(1, 130)] == [
        0,
        0,
        5,
        4,
        2,
        1,
        130,
    ]


def test_cost() -> None:
    assert Prices(cpu_hour=0.05, gpu_hour=1.0).cost(7200, 10, 2) == pytest.approx(5.0)
    assert Prices().cost(7200, 10, 2) is None
