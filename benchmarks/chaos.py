"""Chaos: segment images on a real S3 server while processes die, the store misbehaves and the objects change.

Each run draws a fault and its moments from a seed. A job that is killed or fails is started again, by the same command,
until it ends with 0. Then `verify` must find nothing, and the table must equal that of a run that nobody disturbed:
keys and errors the same, masks but for one pixel in 10,000, floats to 1e-4. Resumable: outcomes are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import record
from pipeline import package, storage
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from testing.equality import assert_equal_rows, table_rows
from testing.processes import descendants
from testing.s3.ceph import Ceph, Endpoint
from testing.s3.fixtures import applied, client
from testing.s3.proxy import Fault, FaultProxy

ROOT = Path(__file__).parent.parent
BUCKET = "chaos"
IMAGES, BROKEN = 120, 6
_ATTEMPTS, _DISTURBED = 8, 1  # starts of one command, and how many of them are disturbed
_LIMIT_S = 400
# Slow enough that there is a middle of the run to disturb.
_LATENCY = Fault(kind="latency", seconds=0.08)
_ARGUMENTS = (
    *("--stream.actors", "2", "--stream.batch_rows", "2", "--stream.block_rows", "3", "--commit_s", "0.3"),
    *("--max_error_rate", "1", "--lease_s", "6", "--stream.fetch.deadline_s", "90"),
)
STORE_FAULTS: dict[str, Callable[[random.Random], list[Fault]]] = {
    "store resets": lambda _: [Fault(kind="reset", rate=0.1)],
    "store stalls": lambda _: [Fault(kind="stall", rate=0.01, seconds=32)],
    "store truncates": lambda _: [Fault(kind="truncate", rate=0.1)],
    "store throttles": lambda _: [Fault(kind="throttle", rate=0.3)],
    "store fails in bursts": lambda _: [Fault(kind="server_error", rate=0.02, burst=20)],
    "store refuses for 10 s": lambda draw: [Fault(kind="refuse", start_s=draw.uniform(6, 12), seconds=10)],
    "store does all of it": lambda draw: [
        *(Fault(kind=kind, rate=0.04) for kind in ("reset", "truncate", "throttle")),
        Fault(kind="server_error", rate=0.01, burst=10),
        Fault(kind="refuse", start_s=draw.uniform(6, 12), seconds=5),
    ],
}
KILLS = ("driver killed", "actor killed", "worker killed", "raylet killed")
FAULTS = (*KILLS, *STORE_FAULTS, "objects change", "two at once")


@dataclass
class Outcome:
    """What one run did to the table."""

    fault: str
    seed: int
    seconds: float = 0.0
    starts: int = 0
    kills: int = 0
    failures: int = 0
    """Starts that ended otherwise than with 0 although nothing killed them."""
    requests_with_faults: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)


class Job:
    """One process of the command, whose lines are watched."""

    def __init__(self, sink: str, extra: tuple[str, ...]) -> None:
        source = ("--source", f"s3://{BUCKET}/images", "--model", f"s3://{BUCKET}/package", "--sink", sink)
        command = [sys.executable, "-m", "jobs.segment_images", *source, *_ARGUMENTS, *extra]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.streaming = threading.Event()
        self.lines: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stderr, self.process.stdout)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.lines.append(line)
            if " to do" in line:
                self.streaming.set()

    def result(self) -> tuple[int, dict[str, Any]]:
        """Exit code and summary."""
        try:
            code = self.process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        for thread in self._threads:
            thread.join(30)
        return code, next((json.loads(line) for line in reversed(self.lines) if line.startswith("{")), {})

    def end(self) -> None:
        """End the process and all that it started."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            _kill(pid)
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=2 * len(FAULTS), help="seeds 0 to this, over all faults in turn")
    parser.add_argument("--only", choices=FAULTS, help="only this fault")
    parser.add_argument("--small", action="store_true", help="three faults, one run each")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "chaos", help="where outcomes are kept")
    arguments = parser.parse_args()
    faults = [arguments.only] if arguments.only else list(FAULTS)
    runs = arguments.runs
    if arguments.small:
        faults, runs = ["driver killed", "store does all of it", "two at once"], 3
    with Ceph() as server, applied(server.endpoint):
        _forget_clients()
        client(server.endpoint).create_bucket(Bucket=BUCKET)
        _fill()
        print("the run that nobody disturbs", file=sys.stderr, flush=True)
        _until_done(f"s3://{BUCKET}/reference", ())
        outcomes = []
        for seed in range(runs):
            fault = faults[seed % len(faults)]
            kept = arguments.work / f"{seed} {fault}.json"
            if kept.exists() and not arguments.small:
                outcome = Outcome(**json.loads(kept.read_text()))
            else:
                outcome = disturb(fault, seed, server.endpoint)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(asdict(outcome)))
            print(outcome, file=sys.stderr, flush=True)
            outcomes.append(outcome)
    rows = [_line(fault, [item for item in outcomes if item.fault == fault]) for fault in faults]
    totals = {name: sum(getattr(item, name) for item in outcomes) for name in ("lost", "doubled", "wrong")}
    protocol = f"seeds 0 to {runs - 1}; {IMAGES} images, {BROKEN} of them broken; Ceph. {__doc__}"
    if not arguments.only:
        record("chaos", rows, {"runs": len(outcomes), **totals}, protocol, small=arguments.small)
    if any(totals.values()) or any(item.problems for item in outcomes):
        sys.exit("the table is not what it promises: " + "; ".join(text for item in outcomes for text in item.problems))


def disturb(fault: str, seed: int, endpoint: Endpoint) -> Outcome:
    """One disturbed run into a sink of its own, and what `verify` and the comparison say of it."""
    draw = random.Random(f"{seed} {fault}")
    outcome = Outcome(fault, seed)
    sink = f"s3://{BUCKET}/sink-{seed}"
    started = time.monotonic()
    faults = STORE_FAULTS.get(fault, lambda _: [])(draw)
    with FaultProxy(endpoint, [_LATENCY, *faults], seed=seed) as proxy, applied(proxy.endpoint):
        if fault == "raylet killed":
            with _cluster() as cluster:
                _until_done(sink, ("--cluster.address", cluster.address), outcome, _raylets(cluster, draw))
        elif fault in KILLS:
            _until_done(sink, (), outcome, _processes(fault, draw))
        elif fault == "objects change":
            _until_done(sink, (), outcome, _changes(draw))
            outcome.starts += 1
            _until_done(sink, ())  # the next night
        elif fault == "two at once":
            _two(sink, outcome)
        else:
            _until_done(sink, (), outcome)
        counts = proxy.counts()["faults"]
        outcome.requests_with_faults = sum(count for kind, count in counts.items() if kind != "latency")
    _forget_clients()
    outcome.seconds = time.monotonic() - started
    reference = f"s3://{BUCKET}/reference"
    if fault == "objects change":
        reference = f"s3://{BUCKET}/reference-{seed}"
        _until_done(reference, ())
    _compare(sink, reference, outcome)
    checked = subprocess.run(
        [sys.executable, "-m", "jobs.verify", "--sink", sink], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if checked.returncode:
        outcome.problems.append(f"{fault}, seed {seed}: {json.loads(checked.stdout.splitlines()[-1]).get('error')}")
    if fault == "objects change":
        _restore()
    return outcome


def _until_done(
    sink: str,
    extra: tuple[str, ...],
    outcome: Outcome | None = None,
    disturbance: Callable[[Job], int] | None = None,
) -> None:
    """The command again and again until it ends with 0; disturbed on its way the first times."""
    job: Job | None = None
    for attempt in range(_ATTEMPTS):
        job = Job(sink, extra)
        kills = 0
        if disturbance is not None and attempt < _DISTURBED:
            while not job.streaming.wait(0.2) and job.process.poll() is None:
                pass
            kills = disturbance(job)
        code, summary = job.result()
        if outcome is not None:
            outcome.starts += 1
            outcome.kills += kills
        _clean_up(job)
        if code == 0:
            return
        if outcome is not None and not kills:
            outcome.failures += 1
            print(f"exit {code}: {summary.get('error')}", file=sys.stderr, flush=True)
        if code == 2:
            raise RuntimeError(f"exit 2: {summary}")
    assert job is not None
    raise RuntimeError(f"not done after {_ATTEMPTS} starts: {''.join(job.lines[-20:])}")


def _processes(fault: str, draw: random.Random) -> Callable[[Job], int]:
    """Kill the driver once, or some workers at random moments."""

    def kill(job: Job) -> int:
        if fault == "driver killed":
            time.sleep(draw.uniform(0, 5))
            if job.process.poll() is not None:
                return 0
            _kill(job.process.pid)
            return 1
        wanted = "ray::MapWorker" if fault == "actor killed" else "ray::"
        kills = 0
        for _ in range(draw.randint(1, 4)):
            time.sleep(draw.uniform(0.3, 2.5))
            found: list[int] = []
            while not found and job.process.poll() is None:
                time.sleep(0.1)
                found = [pid for pid, command in descendants(job.process.pid).items() if wanted in command]
            if not found:
                break
            _kill(draw.choice(sorted(found)))
            kills += 1
        return kills

    return kill


class _Cluster:
    """A head without work and two nodes of one CPU each, each with a raylet of its own, on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = str(self.cluster.address)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]


@contextmanager
def _cluster() -> Iterator[_Cluster]:
    made = _Cluster()
    try:
        yield made
    finally:
        made.cluster.shutdown()


def _raylets(made: _Cluster, draw: random.Random) -> Callable[[Job], int]:
    def kill(job: Job) -> int:
        time.sleep(draw.uniform(0.5, 5))
        victim = made.nodes.pop(draw.randrange(len(made.nodes)))
        made.cluster.remove_node(victim, allow_graceful=False)
        time.sleep(draw.uniform(0, 3))
        made.nodes.append(made.cluster.add_node(num_cpus=1))
        return 1

    return kill


def _changes(draw: random.Random) -> Callable[[Job], int]:
    """Replace, delete and add objects while they are being read."""

    def change(_: Job) -> int:
        keys = sorted(
            Path(uri).name for page in storage.walk(f"s3://{BUCKET}/images") for uri in page["uri"].to_pylist()
        )
        chosen = draw.sample(keys, 16)
        for number, key in enumerate(chosen):
            time.sleep(draw.uniform(0, 0.3))
            if number < 8:
                storage.write(f"s3://{BUCKET}/images/{key}", _picture(draw.randrange(1 << 30)))
            else:
                storage.delete(f"s3://{BUCKET}/images/{key}")
        storage.write(f"s3://{BUCKET}/images/added.png", _picture(7))
        return 0

    return change


def _two(sink: str, outcome: Outcome) -> None:
    jobs = [Job(sink, ()), Job(sink, ())]
    results = [job.result() for job in jobs]
    outcome.starts = len(jobs)
    codes = sorted(code for code, _ in results)
    refused = [summary for code, summary in results if code == 2]
    for job in jobs:
        _clean_up(job)
    if codes[0] != 0 or codes[1] not in (0, 2):
        outcome.problems.append(f"two at once ended with {codes}")
    if any("is in use by run" not in summary.get("error", "") for summary in refused):
        outcome.problems.append(f"the refusal does not name the holder: {refused}")


def _compare(sink: str, reference: str, outcome: Outcome) -> None:
    expected = {(row["uri"], row["member"]): row for row in table_rows(reference)}
    found = table_rows(sink)
    counts = Counter((row["uri"], row["member"]) for row in found)
    outcome.doubled += sum(count - 1 for count in counts.values())
    outcome.lost += len(expected.keys() - counts.keys())
    ignored = ("run_id", "etag") if outcome.fault == "objects change" else ("run_id",)
    for row in found:
        other = expected.get((row["uri"], row["member"]))
        if other is None:  # deleted since: its row stays, and says what was met
            continue
        try:
            assert_equal_rows(row, other, ignored)
        except AssertionError:
            outcome.wrong += 1
            outcome.problems.append(f"{outcome.fault}, seed {outcome.seed}: {row['uri']} differs, error {row['error']}")


def _clean_up(job: Job) -> None:
    """Children of a killed driver notice its death; wait for them, so that the next run is alone."""
    end = time.monotonic() + 20
    while descendants(job.process.pid) and time.monotonic() < end:
        time.sleep(0.2)


def _fill() -> None:
    torch.manual_seed(0)
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    task = ImageSegmentation(classes=("a", "b", "c"), palette=palette, height_px=48, width_px=64)
    model = UNet(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1)))
    package.save(f"s3://{BUCKET}/package", model_name="unet", model=model, task=task, card={})
    _restore()


def _restore() -> None:
    """The objects as they were at first."""
    for page in storage.walk(f"s3://{BUCKET}/images"):
        for uri in page["uri"].to_pylist():
            storage.delete(uri)
    for number in range(IMAGES):
        data = b"broken" * number if number < BROKEN else _picture(number)
        storage.write(f"s3://{BUCKET}/images/{number:04d}.png", data)


def _picture(seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(20, 120, 2)
    buffer = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _forget_clients() -> None:
    storage.configure(storage.StorageConfig())


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _line(fault: str, outcomes: list[Outcome]) -> dict[str, Any]:
    names = ("starts", "kills", "failures", "requests_with_faults", "lost", "doubled", "wrong")
    sums = {name: sum(getattr(item, name) for item in outcomes) for name in names}
    seconds = float(np.mean([item.seconds for item in outcomes])) if outcomes else None
    return {"fault": fault, "runs": len(outcomes)} | sums | {"mean seconds": seconds}


if __name__ == "__main__":
    main()
