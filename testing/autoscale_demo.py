"""``make autoscale-demo``: a cluster on this machine that begins with one node, grows under a run, and shrinks again.

The nodes are real: Ray's own autoscaler starts and ends their processes. Their GPUs are only claimed, so that the plan
for GPUs can be seen without any: the model runs on CPUs there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pipeline.json_text import to_json
from testing.autoscaler import AutoscalingCluster, autoscaling_cluster
from testing.runs import write_images, write_package

NODE_TYPES = {
    "cpu_worker": {"resources": {"CPU": 1}, "max_workers": 1},
    "gpu_worker": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2},
}
_NO_NODES_S = 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=1500, help="how many images are drawn and segmented")
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the nodes are this machine's own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="autoscale-demo-") as folder:
        place = Path(folder)
        _say(f"drawing {arguments.images} images")
        images = write_images(place / "images", arguments.images, largest=200)
        model = write_package(place / "package", 0)
        _say("starting a head; a CPU node and two GPU nodes can come")
        with autoscaling_cluster(NODE_TYPES) as cluster, _told(cluster):
            command = [sys.executable, "-m", "jobs.segment_images", "--source", str(images), "--model", model]
            command += ["--sink", str(place / "sink"), "--cluster.address", cluster.address]
            done = subprocess.run(command, check=False)
            _say("the run is over; waiting until the nodes have left")
            left = cluster.wait_until_only_the_head_is_left(_NO_NODES_S)
        summary = {"exit_code": done.returncode, "most_nodes": max(cluster.nodes), "all_left": left}
        print(to_json(summary | {"nodes": cluster.nodes}))
        sys.exit(done.returncode or not left)


class _told:
    """Says each change of the number of nodes, in a ``with`` block."""

    def __init__(self, cluster: AutoscalingCluster) -> None:
        self._cluster, self._over = cluster, threading.Event()
        self._thread = threading.Thread(target=self._tell)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        told = 0
        while not self._over.wait(0.5):
            for number in self._cluster.nodes[told:]:
                told += 1
                _say(f"{'*' * number} {number} node{'s' * (number > 1)}, the head included")


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
