"""A cluster of this machine with Ray's job server, to which tests submit jobs as users do."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray.util

from testing.processes import ROOT, end_tree

_START_S = 60.0
_PORTS = (
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    *("runtime-env-agent-port", "metrics-export-port", "ray-client-server-port"),
)


@dataclass(frozen=True, kw_only=True)
class JobServer:
    """A running head. ``folder`` has all that Ray writes on disk."""

    address: str
    url: str
    token: str
    folder: Path

    def client_environment(self) -> dict[str, str]:
        """The environment of somebody who submits jobs here."""
        return _environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_API_SERVER_ADDRESS": self.url,
        }


@contextmanager
def job_server(*, cpus: int = 2) -> Iterator[JobServer]:
    """Start a head with a job server and token authentication. It knows no credentials of this process."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="jobs-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--num-cpus={cpus}", "--block"),
            *(f"--{option}={port}" for option, port in ports.items()),
            *("--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folder}/ray"),
        ]
        server = JobServer(
            address=f"{ray.util.get_node_ip_address()}:{ports['port']}",
            url=f"http://127.0.0.1:{ports['dashboard-port']}",
            token=token,
            folder=folder,
        )
        environment = _environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        with (folder / "head.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_for(server, process)
            yield server
        finally:
            end_tree(process.pid)
            process.wait()


def copy_project(folder: Path) -> Path:
    """Copy the project as a clone has it: the code, the pages and the files at the top, but nothing that was made."""
    folder.mkdir()
    for name in ("jobs", "pipeline", "testing", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, folder)
    return folder


def _environment() -> dict[str, str]:
    """This environment, with the commands of this interpreter first, and without clusters, tokens and credentials."""
    kept: Mapping[str, str] = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR") and not name.startswith(("AWS_", "RAY_AUTH_"))
    }
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}", "RAY_worker_niceness": "0"}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def _wait_for(server: JobServer, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{server.url}/api/jobs/", headers={"Authorization": f"Bearer {server.token}"})
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (OSError, urllib.error.URLError) as reason:
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError((server.folder / "head.log").read_text()) from reason
            time.sleep(0.2)
