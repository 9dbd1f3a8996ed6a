"""A second real S3 server for tests: OpenStack Swift with its S3 interface, all on 127.0.0.1.

It is an implementation of S3 that is independent of Ceph. It needs no root, but its own virtual environment, since its
packages conflict with this project's. It is slower than Ceph, and its conditional writes are not atomic. But it checks
checksums after the body, which Ceph 16 does not support. ``python -m testing.s3.swift`` runs a server until it is
interrupted.
"""

from __future__ import annotations

import configparser
import functools
import getpass
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import time as now
from typing import Any

from testing.s3.ceph import Endpoint, Processes, Server, answers, free_ports

ROOT = Path(__file__).parent.parent.parent
REQUIREMENT = "swift==2.38.3"
INSTALL_LIMIT_S = 300
STORES = ("object", "container", "account")


def environment_folder() -> Path:
    """Swift's virtual environment: ``PARQUETRY_SWIFT_VENV``, or a folder beside the project's own."""
    return Path(os.environ.get("PARQUETRY_SWIFT_VENV") or ROOT / ".swift-venv")


@functools.cache
def available() -> tuple[bool, str]:
    """Whether Swift can run here; and if not, why. Makes its virtual environment if there is none."""
    if not sys.platform.startswith("linux"):
        return False, "Swift runs on Linux only"
    with tempfile.NamedTemporaryFile() as probe:
        try:
            os.setxattr(probe.name, "user.parquetry", b"1")
        except OSError:
            return False, f"Swift keeps metadata in extended attributes, which {tempfile.gettempdir()} has not"
    folder = environment_folder()
    done = folder / "installed"
    if done.is_file() and done.read_text() == REQUIREMENT:
        return True, ""
    python = str(folder / "bin" / "python")
    try:
        _quietly(sys.executable, "-m", "venv", "--clear", str(folder))
        (folder / ".gitignore").write_text("*\n")
        _quietly(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT)
        _quietly(python, "-c", "import swift.common.ring, swift.common.middleware.s3api.s3api")
    except (OSError, subprocess.SubprocessError) as reason:
        said = (getattr(reason, "stderr", None) or str(reason)).strip().splitlines()
        return False, f"{REQUIREMENT} cannot be installed in {folder}: {said[-1] if said else reason}"
    done.write_text(REQUIREMENT)
    return True, ""


def _quietly(*command: str) -> None:
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
    )


class Swift(Server):
    """A proxy with the S3 interface, and one server each for objects, containers (buckets) and accounts."""

    name = "swift"

    def launch(self, folder: Path, processes: Processes) -> Endpoint:
        binaries = environment_folder() / "bin"
        python = str(binaries / "python")
        front, *ports = free_ports(1 + len(STORES))
        (folder / "devices" / "disk").mkdir(parents=True)
        _write(folder / "swift.conf", {"swift-hash": {"swift_hash_path_suffix": "tests"}, "storage-policy:0": POLICY})
        for store, port in zip(STORES, ports, strict=True):
            _write(folder / f"{store}.conf", _store_settings(folder, store, port))
        _write(folder / "proxy.conf", _front_settings(folder, front))
        # Swift's own Python also runs this file: to make its rings, and as a part of its proxy.
        imports = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        processes.run(
            "rings", python, "-m", "testing.s3.swift", "rings", str(folder), *map(str, ports), environment=imports
        )
        for name in (*STORES, "proxy"):
            program = str(binaries / f"swift-{name}-server")
            processes.start(name, python, program, str(folder / f"{name}.conf"), environment=imports)
        url = f"http://127.0.0.1:{front}"
        processes.wait(lambda: all(map(_listens, ports)) and answers(f"{url}/healthcheck"))
        return Endpoint(url=url, access_key="tests:tester", secret_key="testing", checksum_trailers=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Settings = dict[str, dict[str, Any]]
POLICY = {"name": "one", "default": "yes"}
#: A busy test machine makes servers slow, so wait for them, and never exclude the only server.
PATIENCE = {"conn_timeout": 10, "node_timeout": 60}


def _write(file: Path, settings: Settings) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(
        {section: {key: str(value) for key, value in items.items()} for section, items in settings.items()}
    )
    with open(file, "w") as out:
        parser.write(out)


def _common(folder: Path, port: int) -> dict[str, Any]:
    return {
        "bind_ip": "127.0.0.1",
        "bind_port": port,
        "swift_dir": folder,
        "user": getpass.getuser(),
        "workers": 0,
        "log_level": "WARNING",
    }


def _store_settings(folder: Path, store: str, port: int) -> Settings:
    disk = {"devices": folder / "devices", "mount_check": False, "disable_fallocate": True, "fallocate_reserve": 0}
    # Update listings at once, so that they show an object as soon as it is written. No daemon would do it later.
    listing = {"container_update_timeout": 60} if store == "object" else {}
    return {
        "DEFAULT": _common(folder, port) | disk | PATIENCE | listing,
        "pipeline:main": {"pipeline": f"{store}-server"},
        f"app:{store}-server": {"use": f"egg:swift#{store}"},
    }


def _front_settings(folder: Path, port: int) -> Settings:
    filters: Settings = {
        "catch_errors": {},
        "gatekeeper": {},
        "healthcheck": {},
        "cache": {"use": "call:testing.s3.swift:cache_filter"},
        "listing_formats": {},
        "s3api": {
            "location": "us-east-1",
            "s3_acl": False,
            "max_upload_part_num": 10000,
            "multi_delete_concurrency": 4,
        },
        "tempauth": {"user_tests_tester": "testing .admin"},
        "copy": {},
        "slo": {"max_manifest_segments": 10000},
        "dlo": {},
        "versioned_writes": {},
    }
    patience = PATIENCE | {"recoverable_node_timeout": 60, "error_suppression_limit": 10**6}
    return {
        "DEFAULT": _common(folder, port),
        "pipeline:main": {"pipeline": " ".join([*filters, "proxy-server"])},
        "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": True} | patience,
    } | {f"filter:{name}": {"use": f"egg:swift#{name}"} | items for name, items in filters.items()}


def make_rings(folder: Path, ports: list[int]) -> None:
    """Write the rings, which say that one server stores everything. Runs with Swift's own Python."""
    from swift.common.ring import RingBuilder  # pyright: ignore[reportMissingImports]

    for store, port in zip(STORES, ports, strict=True):
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder.add_dev(place | {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "disk", "meta": ""})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{store}.ring.gz"))


class Cache:
    """Replaces memcached for Swift's proxy, which has only one process. Without it, every request needs look-ups."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, float]] = {}

    def get(self, key: str, **_: Any) -> Any:
        text, until = self.values.get(key, ("null", 0.0))
        return json.loads(text) if until > now() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        # Stored as text, since callers change the values that they have stored.
        self.values[key] = (json.dumps(value), now() + (time or 3600))

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        value = max(0, (self.get(key) or 0) + delta)
        self.set(key, value, time)
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        return self.incr(key, -delta, time)

    def delete(self, key: str, **_: Any) -> None:
        self.values.pop(key, None)

    def set_multi(self, mapping: dict[str, Any], server_key: str, time: float = 0, **_: Any) -> None:
        for key, value in mapping.items():
            self.set(key, value, time)

    def get_multi(self, keys: list[str], server_key: str, **_: Any) -> list[Any]:
        return [self.get(key) for key in keys]


def cache_filter(*_: Any, **__: Any) -> Any:
    """Named in Swift's configuration: makes the filter that gives the cache to the proxy."""
    cache = Cache()

    def around(application: Any) -> Any:
        def call(request: dict[str, Any], start: Any) -> Any:
            request["swift.cache"] = cache
            return application(request, start)

        return call

    return around


if __name__ == "__main__":
    if sys.argv[1:2] == ["rings"]:
        make_rings(Path(sys.argv[2]), [int(port) for port in sys.argv[3:]])
    else:
        found, why = available()
        if not found:
            sys.exit(why)
        Swift().serve()
