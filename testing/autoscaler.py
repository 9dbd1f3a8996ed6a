"""A cluster whose nodes Ray's own autoscaler starts and ends on this machine: real raylets, with claimed GPUs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.util
import yaml

from testing.processes import descendants, end_tree

_HEAD = "f" * 51 + "00000"  # the fake provider knows the head by this name
_NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_START_S = 60.0
_ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_autoscaler_v2": "0",  # version 2 starts no node of this provider
    _NODE_ID: _HEAD,
    "RAY_worker_niceness": "0",
    "PARQUETRY_GPUS_ARE_CLAIMED": "1",
}


@dataclass
class AutoscalingCluster:
    """A running cluster."""

    address: str
    pid: int
    nodes: list[int] = field(default_factory=list)
    """How many nodes there were, the head included, each time that the number changed. A node that starts may be
    counted twice for a moment."""

    def workers(self) -> dict[str, int]:
        """The nodes besides the head: their ids, and the pids of their raylets."""
        found = {}
        for pid, command in descendants(self.pid).items():
            if "/raylet --" in command:
                with contextlib.suppress(OSError):
                    variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                    found |= {item[len(_NODE_ID) + 1 :]: pid for item in variables if item.startswith(f"{_NODE_ID}=")}
        return {node: pid for node, pid in found.items() if node != _HEAD}

    def kill(self, node: str) -> None:
        """Take a node away without notice, with all its processes."""
        pid = self.workers()[node]
        for member in [*descendants(pid), pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)

    def drain(self, node: str, seconds: int) -> None:
        """Announce that a node is taken away so many seconds from now, as a provider of spot machines does."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot machine is taken back"]
        deadline = ["--deadline-remaining-seconds", str(seconds)]
        command = [*_RAY, "drain-node", f"--address={self.address}", "--node-id", node, *reason, *deadline]
        subprocess.run(command, env=os.environ | _ENVIRONMENT, check=True, capture_output=True, timeout=60)

    def wait_until_only_the_head_is_left(self, timeout_s: float = 90.0) -> bool:
        until = time.monotonic() + timeout_s
        while self.nodes[-1:] != [1] and time.monotonic() < until:
            time.sleep(0.2)
        return self.nodes[-1:] == [1]


@contextmanager
def autoscaling_cluster(
    node_types: Mapping[str, Mapping[str, Any]], *, head_cpus: int = 1, most_nodes: int = 4, idle_s: float = 6.0
) -> Iterator[AutoscalingCluster]:
    """Start a head, whose autoscaler starts nodes of these types (``resources``, ``max_workers``) when they are needed.

    Jobs that connect to it need ``RAY_AUTH_MODE=disabled`` in their environment.
    """
    with tempfile.TemporaryDirectory(prefix="autoscaler-") as folder:
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        address = f"{ray.util.get_node_ip_address()}:{port}"
        config = Path(folder) / "cluster.yaml"
        config.write_text(yaml.safe_dump(_configuration(address, node_types, head_cpus, most_nodes, idle_s)))
        command = [
            *(*_RAY, "start", "--head", f"--autoscaling-config={config}"),
            *(f"--num-cpus={head_cpus}", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/ray"),
            "--block",
        ]
        with (Path(folder) / "head.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | _ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        found = AutoscalingCluster(address, process.pid)
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=(found, over))
        try:
            _wait_for(address)
            watching.start()
            yield found
        finally:
            over.set()
            end_tree(process.pid)
            process.wait()
            if watching.is_alive():
                watching.join()


def _configuration(
    address: str, node_types: Mapping[str, Mapping[str, Any]], head_cpus: int, most_nodes: int, idle_s: float
) -> dict[str, Any]:
    steps = ("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands")
    more_steps = ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    head = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    workers = {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in node_types.items()}
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "disable_node_updaters": True,
        "use_node_id_as_ip": True,
        "head_node_id": _HEAD,
    }
    return {
        "cluster_name": "fake_multinode",
        "max_workers": most_nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "available_node_types": {"ray.head.default": head, **workers},
        "head_node_type": "ray.head.default",
        "auth": {"ssh_user": "root"},
        "docker": {},
        "file_mounts": {},
        **{name: [] for name in (*steps, *more_steps)},
    }


def _wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    until = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _watch(cluster: AutoscalingCluster, over: threading.Event) -> None:
    before: set[int] = set()
    while not over.wait(0.5):
        now = {pid for pid, command in descendants(cluster.pid).items() if "/raylet --" in command}
        count = len(now & before)  # a process that a raylet has just forked looks like it for a moment
        before = now
        if count and cluster.nodes[-1:] != [count]:
            cluster.nodes.append(count)
