"""Runs on a cluster that grows and shrinks under them: Ray's own autoscaler, real raylets, nodes that die or leave.

Each run begins on a head without work of its own, with three nodes to come. A fault and its moments are drawn from a
seed: nodes are killed without notice, or announced to leave and then killed, or the driver is killed and the command
started again. Then the table must equal that of a run that nobody disturbed, and all nodes must leave.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import record
from pipeline.quality.audit import audit
from testing.autoscaler import AutoscalingCluster, autoscaling_cluster
from testing.equality import assert_equal_rows, table_rows
from testing.processes import run_job, start_job
from testing.runs import write_images, write_package

IMAGES, BROKEN = 900, 9
NODES = 3
KINDS: dict[str, dict[str, Any]] = {
    "gpu": {"gpu_worker": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": NODES}},
    "cpu": {"cpu_worker": {"resources": {"CPU": 1}, "max_workers": NODES}},
}
FAULTS = ("nothing", "node killed", "nodes killed", "node drained", "driver killed")
_STARTS = 4
_LIMIT_S = 600
_SETTINGS = ("--stream.batch_rows", "2", "--stream.block_rows", "4", "--commit_s", "0.5", "--max_error_rate", "1")


@dataclass
class Outcome:
    fault: str
    nodes: str
    """Of which kind the nodes are that can come."""
    seed: int
    seconds: float = 0.0
    starts: int = 0
    most_nodes: int = 0
    all_left: bool = False
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=20, help="seeds 0 to this, over all faults in turn")
    parser.add_argument("--only", choices=FAULTS, help="only this fault")
    parser.add_argument("--small", action="store_true", help="two runs")
    parser.add_argument("--work", type=Path, default=Path(".bench/autoscaling"), help="where outcomes are kept")
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    place = Path(tempfile.mkdtemp(prefix="autoscaling-"))
    faults = (arguments.only,) if arguments.only else FAULTS
    try:
        _prepare(place)
        outcomes = [
            _kept(arguments.work, place, faults[seed % len(faults)], seed)
            for seed in range(2 if arguments.small else arguments.runs)
        ]
    finally:
        shutil.rmtree(place)
    rows = [_line(fault, [item for item in outcomes if item.fault == fault]) for fault in faults]
    totals = {name: sum(getattr(item, name) for item in outcomes) for name in ("lost", "doubled", "wrong")}
    protocol = f"{IMAGES} images, {BROKEN} of them broken; GPUs are claimed, and work on the CPU. {__doc__}"
    if not arguments.only:
        record("autoscaling", rows, {"runs": len(outcomes), **totals}, protocol, small=arguments.small)
    if any(totals.values()) or any(item.problems for item in outcomes):
        sys.exit("; ".join(text for item in outcomes for text in item.problems) or "the table is not what it promises")


def _prepare(place: Path) -> None:
    """Images, a package, and the table of a run on this machine alone."""
    images = write_images(place / "images", IMAGES, largest=160)
    for number in range(0, IMAGES, IMAGES // BROKEN):
        (images / f"{number:04d}.png").write_bytes(b"broken")
    write_package(place / "package", 0)
    code, summary, err = run_job("segment_images", *_places(place, "reference"), *_SETTINGS, timeout_s=_LIMIT_S)
    assert (code, summary["failed"]) == (0, BROKEN), err


def _places(place: Path, sink: str) -> list[str]:
    return ["--source", str(place / "images"), "--model", str(place / "package"), "--sink", str(place / sink)]


def _kept(work: Path, place: Path, fault: str, seed: int) -> Outcome:
    """The outcome of a run, or that of an earlier call."""
    file = work / f"{seed} {fault}.json"
    if file.exists():
        return Outcome(**json.loads(file.read_text()))
    found = disturbed(place, fault, seed)
    print(found, file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(found)))
    return found


def disturbed(place: Path, fault: str, seed: int) -> Outcome:
    """One run into a sink of its own, and what an audit and the comparison say of it."""
    draw = random.Random(f"{seed} {fault}")
    kind = ("gpu", "cpu")[seed % 2]
    outcome = Outcome(fault=fault, nodes=kind, seed=seed)
    sink = f"sink-{seed}"
    started = time.monotonic()
    with autoscaling_cluster(KINDS[kind], head_cpus=1 if kind == "gpu" else 0, most_nodes=NODES + 1) as cluster:
        arguments = [*_places(place, sink), *_SETTINGS, "--cluster.address", cluster.address]
        over = threading.Event()
        disturbing = threading.Thread(target=_disturb, args=(cluster, fault, draw, over))
        disturbing.start()
        try:
            _run(arguments, fault, draw, outcome)
        finally:
            over.set()
            disturbing.join()
        outcome.most_nodes = max(cluster.nodes)
        outcome.all_left = cluster.wait_until_only_the_head_is_left()
    outcome.seconds = round(time.monotonic() - started, 1)
    if not outcome.all_left:
        outcome.problems.append(f"{fault}, seed {seed}: nodes stayed")
    found = audit(str(place / sink)).summary()
    if found["problems"]:
        outcome.problems.append(f"{fault}, seed {seed}: {found['problems']}")
    _compare(place, sink, outcome)
    shutil.rmtree(place / sink)
    return outcome


def _run(arguments: list[str], fault: str, draw: random.Random, outcome: Outcome) -> None:
    """The command again and again until it ends with 0."""
    for attempt in range(_STARTS):
        outcome.starts += 1
        process = start_job("segment_images", *arguments)
        if fault == "driver killed" and attempt == 0:
            timer = threading.Timer(draw.uniform(8, 30), process.kill)
            timer.start()
        _, err = process.communicate(timeout=_LIMIT_S)
        if process.returncode == 0:
            return
        if process.returncode != -signal.SIGKILL:
            print(f"exit {process.returncode}: {err[-500:]}", file=sys.stderr, flush=True)
    raise RuntimeError(f"not done after {_STARTS} starts")


def _disturb(cluster: AutoscalingCluster, fault: str, draw: random.Random, over: threading.Event) -> None:
    if not fault.startswith("node"):
        return
    steps: dict[str, Callable[[str], None]] = {
        "node killed": cluster.kill,
        "nodes killed": cluster.kill,
        "node drained": lambda node: _drained(cluster, node, draw, over),
    }
    if fault not in steps:
        return
    for _ in range(draw.randint(2, 3) if fault == "nodes killed" else 1):
        while not cluster.workers():
            if over.wait(0.5):
                return
        if over.wait(draw.uniform(2, 10)):
            return
        nodes = sorted(cluster.workers())
        if nodes:
            steps[fault](draw.choice(nodes))


def _drained(cluster: AutoscalingCluster, node: str, draw: random.Random, over: threading.Event) -> None:
    notice = draw.randint(3, 8)
    cluster.drain(node, notice)
    if not over.wait(notice) and node in cluster.workers():
        cluster.kill(node)


def _compare(place: Path, sink: str, outcome: Outcome) -> None:
    """Count rows that are lost or doubled, and those that differ from the undisturbed run's."""
    expected = {row["uri"]: row for row in table_rows(str(place / "reference"))}
    found = table_rows(str(place / sink))
    outcome.lost = len(expected.keys() - {row["uri"] for row in found})
    outcome.doubled = len(found) - len({row["uri"] for row in found})
    for row in found:
        try:
            assert_equal_rows(expected[row["uri"]], row)
        except AssertionError as reason:
            outcome.wrong += 1
            outcome.problems.append(f"{outcome.fault}, seed {outcome.seed}: {row['uri']}: {reason}"[:300])


def _line(fault: str, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "fault": fault,
        "runs": len(outcomes),
        "starts": sum(item.starts for item in outcomes),
        "most nodes": max((item.most_nodes for item in outcomes), default=0),
        "all nodes left": sum(item.all_left for item in outcomes),
        "lost": sum(item.lost for item in outcomes),
        "doubled": sum(item.doubled for item in outcomes),
        "wrong": sum(item.wrong for item in outcomes),
        "seconds": [item.seconds for item in outcomes],
    }


if __name__ == "__main__":
    main()
