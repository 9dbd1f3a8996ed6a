"""What a run tells while it works, as those get it who listen: Ray's metrics, and whoever runs the job."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import ray

from pipeline import package
from pipeline.distributed.run import Run
from pipeline.runs.events import Event
from testing.runs import new_run, write_images, write_package

pytestmark = pytest.mark.ray


def exported(run_id: str, name: str, timeout_s: float = 30.0) -> dict[str, float]:
    """The samples of a metric of a run at the metrics port of this node, by the tag that tells them apart."""
    node = next(node for node in ray.nodes() if node["Alive"])
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        found = re.findall(rf'^ray_parquetry_{name}{{(.*run="{run_id}".*)}} (\S+)$', text, re.MULTILINE)
        if found:
            tags = [re.search(r'(?:code|stage|state)="(\w+)"', item[0]) for item in found]
            return {tag[1] if tag else "": float(item[1]) for tag, item in zip(tags, found, strict=True)}
        time.sleep(0.5)
    return {}


def test_a_run_is_seen_from_outside(cluster: None, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 40, largest=60)
    (images / "0003.png").write_bytes(b"broken")
    told: list[Event] = []
    model = package.load(write_package(tmp_path / "package", 0))
    plan = new_run([images], model, tmp_path / "sink").plan
    run = Run(plan, told.append)
    assert run.live().exit_code == 0
    assert {event.facts["run"] for event in told} == {run.run_id}
    parts = [event.facts for event in told if event.kind == "part"]
    ordinals = [range(*(int(end) + step for step, end in enumerate(part["block"].split("-")))) for part in parts]
    assert sorted(number for block in ordinals for number in block) == list(range(40))
    assert sum(Counter(part["failed"]).total() for part in parts) == 1
    assert sum(event.facts["rows"] for event in told if event.kind == "commit") == 40
    last = [event.facts for event in told if event.kind == "progress"][-1]
    assert (last["done"], last["failed"], last["pending"], last["nodes"]) == (39, 1, 40, 1)
    assert exported(run.run_id, "inputs_done_total") == {"": 39}
    assert exported(run.run_id, "inputs_failed_total") == {"not_an_image": 1}
    assert exported(run.run_id, "rows_committed_total") == {"": 40}
    assert set(exported(run.run_id, "stage_seconds_total")) == {"fetch", "prepare", "predict", "encode", "write"}
    assert exported(run.run_id, "inputs_pending") == {"": 0}
