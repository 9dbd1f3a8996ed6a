"""Small trainings, and a cluster of their own whose nodes come and go: a head without CPUs, and raylets.

A test starts `in_own_cluster` in a process of its own, since its own process is connected to the cluster of all tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline import config, storage
from pipeline.distributed import preparation, train
from pipeline.examples.scenes import CLASSES, PALETTE
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.segmenters.unet import UNetConfig
from pipeline.noise import Noise
from pipeline.source.labelled import split_files
from pipeline.training.losses import Batch
from testing.nodes import Node, another_node, ray_command
from testing.processes import ROOT, descendants


@dataclass(frozen=True, kw_only=True)
class SlowSegmentation(ImageSegmentation):
    """Takes at least a tenth of a second for a step, so that something can happen meanwhile."""

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        time.sleep(0.1)
        return super().augment(batch, noise)


SLOW = SlowSegmentation(classes=CLASSES, palette=PALETTE, height_px=24, width_px=32)


def plan(scenes: str, out: Path, task: Any, **settings: Any) -> train.Plan:
    """A small training on a folder of scenes, whose samples are prepared."""
    name, model = "unet", UNetConfig(classes=len(CLASSES), widths=(8, 16), blocks=(1, 1))
    if isinstance(task, ImageReconstruction):
        name = "conv_vae"
        model = ConvVAEConfig(widths=(8, 16), blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=4)
    values = {"epochs": 8, "batch_rows": 8, "evaluate_every_epochs": 4, "gpu": False, "threads": 1} | settings
    return train.Plan(
        task=task,
        model_name=name,
        model_config=config.to_dict(model),
        copies=(),
        train=preparation.prepare(split_files(scenes, "train"), task, str(out)),
        validation=preparation.prepare(split_files(scenes, "val"), task, str(out)),
        config=train.DistributedTrainConfig(**values),
        out=str(out),
        card={"data": scenes},
    )


class Cluster:
    """What a story of `STORIES` is told of: a cluster without CPUs at first, and a training there."""

    def __init__(self, scenes: str, out: Path, settings: dict[str, Any]) -> None:
        self.said: list[str] = []
        self.nodes: list[Node] = []
        self.plan = plan(scenes, out, SLOW, **settings)
        self._nodes = ExitStack()
        self._over = threading.Event()

    def add(self) -> None:
        self.nodes.append(self._nodes.enter_context(another_node(cpus=1)))

    def until(self, done: Callable[[], bool], patience_s: float = 120.0) -> None:
        deadline = time.monotonic() + patience_s
        while not done():
            assert not self._over.is_set(), "the training has ended"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def trained(self) -> bool:
        """Whether a checkpoint was written that was not there when this was asked last."""
        found = storage.names(str(Path(self.plan.out) / "checkpoints"))[-1:]
        was, self._last = getattr(self, "_last", []), found
        return bool(found) and found != was

    def workers(self) -> int:
        """The number of workers that the training has said last."""
        found = [re.search(r"with (\d+) workers?$", line) for line in self.said]
        return next((int(match[1]) for match in reversed(found) if match), 0)

    def run(self, story: Callable[[Cluster], None], nodes: int) -> dict[str, Any]:
        failed: list[BaseException] = []

        def tell() -> None:
            try:
                story(self)
            except BaseException as reason:
                failed.append(reason)

        def check() -> None:
            if failed:
                raise failed[0]

        def say(line: str) -> None:
            self.said.append(line)
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

        teller = threading.Thread(target=tell)
        with self._nodes:
            for _ in range(nodes):
                self.add()
            teller.start()
            try:
                return train.fit(self.plan, say, check)
            finally:
                self._over.set()
                teller.join()


def _from_none(cluster: Cluster) -> None:
    """No node at first."""
    cluster.until(lambda: len(cluster.said) >= 2)
    cluster.add()


def _lost(cluster: Cluster) -> None:
    """The node of the only worker is lost, and there is a spare one. The box of the progress dies with it."""
    cluster.until(cluster.trained)
    cluster.add()
    boxes = [pid for pid, name in descendants(os.getpid()).items() if "ray::_Box" in name]
    for pid in boxes:
        os.kill(pid, signal.SIGKILL)
    cluster.said.append(f"{len(boxes)} boxes killed")
    cluster.nodes[0].lose()


def _elastic(cluster: Cluster) -> None:
    """A node of two is lost, and one comes back."""
    node = cluster.nodes[0]
    cluster.until(lambda: cluster.workers() == 2)
    cluster.until(cluster.trained)
    node.lose()
    cluster.until(lambda: cluster.workers() == 1)
    cluster.until(cluster.trained)
    cluster.said.append("a node comes")
    cluster.add()
    cluster.until(lambda: cluster.workers() == 2)


def _notice(cluster: Cluster) -> None:
    """The node of the only worker is announced to leave, and leaves; there is a spare one."""
    cluster.until(lambda: cluster.workers() == 1)
    cluster.add()
    node = cluster.nodes[0]
    command = [ray_command(), "drain-node", "--address", ray.get_runtime_context().gcs_address]
    command += ["--node-id", *node.ids, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "8"], check=True, capture_output=True)
    cluster.until(cluster.trained)
    time.sleep(2)  # some steps, which will be lost
    node.lose()


#: By name, what happens, and the number of nodes before it does.
STORIES = {"from none": (_from_none, 0), "lost": (_lost, 1), "elastic": (_elastic, 2), "notice": (_notice, 1)}


def in_own_cluster(story: str, scenes: str, out: str, settings: dict[str, Any]) -> None:
    """Train while the story happens, and print what was said and the summary. The samples must be prepared."""
    train._SILENCE_S, train._RESIZE_S = 8.0, 5.0
    ray.init(address="local", num_cpus=0, include_dashboard=False, log_to_driver=False)
    cluster = Cluster(scenes, Path(out), settings)
    summary = cluster.run(*STORIES[story])
    print(json.dumps({"said": cluster.said, "summary": summary}))


def trained_in_own_cluster(story: str, scenes: str, out: Path, **settings: Any) -> dict[str, Any]:
    """`in_own_cluster` in a process of its own; what it printed."""
    given = repr((story, scenes, str(out), settings))
    call = f"from testing.trainings import in_own_cluster; in_own_cluster(*{given})"
    quick = {
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    }
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=ROOT, env=os.environ | quick, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
