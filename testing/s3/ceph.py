"""A real S3 server for tests: Ceph's radosgw with one monitor and one object store, all on 127.0.0.1.

Mocks of S3 are more forgiving than S3: they serialise requests, ignore checksums, and have no conditional writes. These
three processes of Ceph start in about two seconds as any user and keep objects in memory. ``python -m testing.s3.ceph``
runs a server until it is interrupted.
"""

from __future__ import annotations

import configparser
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_LIMIT_S = 60.0

#: Starts every program so that the kernel kills it when this process ends for any reason. A ``preexec_fn`` would do the
#: same, but it forks this process, which may have Ray's threads. The program is not started if the parent has ended.
_LAUNCHER = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The address of an S3 server and the keys for it. Buckets are in the path of URLs, never in the host name."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    checksum_trailers: bool = False
    """Whether it supports a checksum after the body, which new clients send by default; Ceph 16 answers 411."""

    def environment(self) -> dict[str, str]:
        """Environment variables for all S3 clients: botocore, s3fs, pyarrow, object_store, deltalake."""
        checksums = "when_supported" if self.checksum_trailers else "when_required"
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": checksums,
            "AWS_RESPONSE_CHECKSUM_VALIDATION": checksums,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class ServerError(RuntimeError):
    """A server has not started. The message ends with the last lines of its logs."""


class Processes:
    """Programs with their logs in one folder. They end at the latest with the thread that has started them.

    This should be the main thread, since the kernel watches this thread and not the whole process.
    """

    def __init__(self, folder: Path, limit_s: float = START_LIMIT_S) -> None:
        self.folder = folder
        self.deadline = time.monotonic() + limit_s
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program and let it run. It has its own session, so that Ctrl-C does not end it before its clients."""
        # Python's own variables are for the tests, and not for programs that happen to be written in Python.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CEPH_"))}
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                guarded(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=inherited | (environment or {}),
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def run(self, name: str, *command: str, environment: dict[str, str] | None = None) -> None:
        """Run a program, which must succeed in the time that is left."""
        process = self.start(name, *command, environment=environment)
        try:
            code = process.wait(self.left_s)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{command[0]} took too long\n{self.tail()}") from None
        if code:
            raise ServerError(f"{command[0]} ended with {code}\n{self.tail()}")
        del self.running[name]

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until the servers are ready. `ServerError` if one has ended or the time is over."""
        while not ready():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise ServerError(f"{name} ended with {process.returncode}\n{self.tail()}")
            if not self.left_s:
                raise ServerError(f"no answer in time\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 15) -> str:
        """The last lines of all logs."""
        parts = []
        for log in sorted(self.folder.glob("*.log")):
            last = log.read_text(errors="replace").splitlines()[-lines:]
            parts += [f"--- {log.name}", *last] if last else []
        return "\n".join(parts)

    def stop(self) -> None:
        """Kill all programs at once. Their data are not needed any more."""
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()
        self.running.clear()


def guarded(*command: str) -> list[str]:
    """The command line that starts a program such that it is killed when the calling thread ends."""
    return [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *command]


def free_ports(count: int) -> list[int]:
    """Adjacent free ports, below the range of the kernel's ports for clients, so that no connection can take one."""
    while True:
        first = random.SystemRandom().randrange(20000, 32000)
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    """Whether a server answers, and not with an internal error. Proxies of the environment are not used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code < 500
    except OSError:
        return False


class Server(AbstractContextManager["Server"], ABC):
    """An S3 server with its own temporary folder, for the time of a ``with`` block."""

    name: str
    endpoint: Endpoint

    def __init__(self, *, folder: Path | None = None) -> None:
        """``folder``: where to make the temporary folder; None: where the system makes them."""
        self.parent = folder
        self.start_s = 0.0

    @abstractmethod
    def launch(self, folder: Path, processes: Processes) -> Endpoint:
        """Start all programs; return when requests are answered."""

    def __enter__(self) -> Self:
        began = time.monotonic()
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.parent))
            self.processes = Processes(self.folder / "log", began + START_LIMIT_S - time.monotonic())
            try:
                self.endpoint = self.launch(self.folder, self.processes)
            except BaseException as reason:
                self.stop()
                # Another program may take a port before it is used.
                if isinstance(reason, ServerError) and "in use" in str(reason) and self.processes.left_s > 10:
                    continue
                raise
            self.start_s = time.monotonic() - began
            return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.processes.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def serve(self) -> None:
        """Run until SIGINT or SIGTERM. Prints the environment variables for clients."""
        signals = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # no signal may arrive between start and stop
        with self:
            for key, value in self.endpoint.environment().items():
                print(f"export {key}={value}", flush=True)
            signal.sigwait(signals)


class Ceph(Server):
    """One monitor, one object store and one gateway. Only S3 requests need a signature."""

    name = "ceph"

    def __init__(self, *, size_gib: int = 8, in_memory: bool = True, folder: Path | None = None) -> None:
        """``size_gib`` is a limit, not a reservation: a store in memory grows with the data written to it.

        A store in memory is faster and takes about 2 GiB for 20,000 objects of 40 KB. A store in a file needs 10 s to
        start.
        """
        super().__init__(folder=folder)
        self.size = size_gib * 2**30
        self.in_memory = in_memory

    def launch(self, folder: Path, processes: Processes) -> Endpoint:
        gateway, monitor, *store = free_ports(34)
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
        conf, monmap = str(folder / "ceph.conf"), str(folder / "monmap")
        with open(conf, "w") as file:
            self._settings(folder, cluster, gateway, monitor, store).write(file)
        where = f"[v2:127.0.0.1:{monitor}]"
        processes.run("monmap", "monmaptool", "--create", "--fsid", cluster, "--addv", "a", where, monmap)
        processes.run("mon-mkfs", "ceph-mon", "-c", conf, "-i", "a", "--mkfs", "--monmap", monmap)
        processes.start("mon", "ceph-mon", "-c", conf, "-i", "a", "-f")
        processes.run("osd-new", "ceph", "-c", conf, "--connect-timeout", "30", "osd", "new", osd, "0")
        processes.run("osd-mkfs", "ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        processes.start("osd", "ceph-osd", "-c", conf, "-i", "0", "-f")
        processes.start("rgw", "radosgw", "-c", conf, "-n", "client.rgw.a", "-f")
        endpoint = Endpoint(
            url=f"http://127.0.0.1:{gateway}",
            access_key=secrets.token_hex(10).upper(),
            secret_key=secrets.token_hex(20),
        )
        processes.wait(lambda: answers(endpoint.url))
        user = ("user", "create", "--uid=tests", "--display-name=tests")
        keys = (f"--access-key={endpoint.access_key}", f"--secret={endpoint.secret_key}")
        processes.run("user", "radosgw-admin", "-c", conf, "-n", "client.rgw.a", *user, *keys)
        return endpoint

    def _settings(
        self, folder: Path, cluster: str, gateway: int, monitor: int, store: list[int]
    ) -> configparser.ConfigParser:
        settings = configparser.ConfigParser(interpolation=None)
        everywhere = {
            "fsid": cluster,
            "mon host": f"[v2:127.0.0.1:{monitor}]",
            "mon initial members": "a",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "ms bind msgr1": False,
            "ms bind port min": store[0],
            "ms bind port max": store[-1],
            # No authentication between daemons. The gateway would require encryption, which needs keys: it would hang.
            "auth cluster required": "none",
            "auth service required": "none",
            "auth client required": "none",
            "ms mon client mode": "crc",
            "run dir": folder,
            "admin socket": folder / "$name.asok",
            "pid file": "",
            "log file": folder / "log" / "$name.daemon.log",
            "crash dir": folder,
            # One copy on one store and few placement groups, so that the server starts fast.
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 4,
            "osd pool default pgp num": 4,
            "osd pool default pg autoscale mode": "off",
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": True,
            "mon max pg per osd": 1000,
            # Do not stop when the machine's disk is nearly full.
            "mon data avail warn": 1,
            "mon data avail crit": 1,
            # Every new pool changes the cluster's map. By default, a change would be delayed by a second.
            "paxos propose interval": 0.05,
            "paxos min wait": 0.01,
        }
        objects = {
            "osd data": folder / "osd",
            "osd objectstore": "memstore" if self.in_memory else "bluestore",
            "memstore device bytes": self.size,
            "bluestore block size": self.size,
            # The gateway's bucket indices need code that is loaded into the store.
            "osd class load list": "*",
            "osd class default list": "*",
        }
        s3 = {
            "rgw data": folder / "rgw",
            # Without tcp_nodelay, an answer of two segments waits 40 ms for the client's acknowledgement.
            "rgw frontends": f"beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1",
            "rgw thread pool size": 64,
            "rgw override bucket index max shards": 1,
            "rgw dynamic resharding": False,
            # Free the memory of deleted objects soon.
            "rgw gc obj min wait": 5,
            "rgw gc processor period": 30,
            "debug rgw": 0,
        }
        settings["global"] = {key: str(value) for key, value in everywhere.items()}
        settings["mon.a"] = {"mon data": str(folder / "mon")}
        settings["osd"] = {key: str(value) for key, value in objects.items()}
        settings["client.rgw.a"] = {key: str(value) for key, value in s3.items()}
        return settings


def available() -> tuple[bool, str]:
    """Whether Ceph is installed; and if not, what is missing and how to install it."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not sys.platform.startswith("linux"):
        return False, "Ceph runs on Linux only"
    if missing:
        return False, f"Ceph is not installed (no {', '.join(missing)}); as root: testing/s3/install.sh"
    return True, ""


if __name__ == "__main__":
    found, why = available()
    if not found:
        sys.exit(json.dumps({"error": why}))
    Ceph().serve()
