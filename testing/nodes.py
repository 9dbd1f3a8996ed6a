"""More nodes for a Ray cluster on this machine, also such that do not see a folder, as on a machine of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray

from testing.processes import descendants, end_tree

_JOIN_S = 60.0


@dataclass(kw_only=True)
class Node:
    """A node that `another_node` has added."""

    process: subprocess.Popen[bytes]
    ids: set[str] = field(default_factory=set)

    def lose(self) -> None:
        """Take the node away without notice, as when its machine loses power, but for its connections, which close."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            os.kill(pid, signal.SIGKILL)


@contextmanager
def another_node(*, cpus: int = 1, gpus: int = 0, hidden: Path | None = None) -> Iterator[Node]:
    """A raylet of its own that joins the cluster of this process. At ``hidden`` it sees an empty folder instead.

    The test is skipped where the kernel does not allow a mount namespace.
    """
    address = ray.get_runtime_context().gcs_address
    command = [ray_command(), "start", f"--address={address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--block"]
    if hidden is not None:
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("no mount namespaces here")
        command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden), *command]
    before = _living()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    node = Node(process=process)
    try:
        _wait(lambda: bool(_living() - before) or process.poll() is not None)
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(f"the node did not start: {process.stdout.read().decode()}")
        node.ids = _living() - before
        yield node
    finally:
        # The raylet first, so that it can take its leave. Otherwise its death is noticed only after some time.
        for pid, name in descendants(process.pid).items():
            if "/raylet " in name:
                os.kill(pid, signal.SIGTERM)
        _wait(lambda: not node.ids & _living())
        end_tree(process.pid)
        process.wait()


def ray_command() -> str:
    """The path of the command ``ray``."""
    found = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert found is not None
    return found


def _living() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _JOIN_S
    while not done() and time.monotonic() < until:
        time.sleep(0.1)
