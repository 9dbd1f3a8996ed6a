"""Fixtures for all tests: a Ray cluster, real data, counted reads. Shapes in ``pipeline.models`` are checked, too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

pytest_plugins = ["testing.s3.fixtures"]

# Otherwise Ray's workers run at niceness 15, and starve beside the other processes of a parallel test run.
os.environ.setdefault("RAY_worker_niceness", "0")
# One process less for each training; no test machine gives notice that it will be taken away.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
# Test machines are shared and sometimes slow, so no deadlines here. A test that hangs ends by pytest's own timeout.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")
# With more threads, small models would spend most of their time waiting for other threads.
torch.set_num_threads(1)
_HOOK = install_import_hook("pipeline.models", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that take minutes unless requested, and run slow files first, so that processes end together."""
    if not os.environ.get("PARQUETRY_HEAVY"):
        for item in items:
            if item.get_closest_marker("heavy"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; PARQUETRY_HEAVY=1 runs it"))
    rank: dict[str, int] = {}
    for item in items:
        file = item.nodeid.split("::")[0]
        marks = [number for number, name in enumerate(("s3", "ray")) if item.get_closest_marker(name)]
        rank[file] = min(rank.get(file, 2), *marks, 2)
    items.sort(key=lambda item: rank[item.nodeid.split("::")[0]])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute tests as ``--dist loadfile``, but with all files of S3 servers in one process, and those of jobs."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler.loadfile import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = (folder for folder in ("tests/s3/", "tests/jobs/") if nodeid.startswith(folder))
            return next(shared, None) or super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets, from ``PARQUETRY_DATA``. Tests that need it are skipped if it does not exist."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("PARQUETRY_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; PARQUETRY_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster with two CPUs, for all tests that need one.

    Its workers inherit the environment at its start, so they do not know an S3 server that a test starts later.
    """
    from pipeline.distributed.session import session
    from pipeline.runs.cluster import ClusterConfig

    with session(ClusterConfig(address="local", cpus=2, gpus=0)):
        yield


@pytest.fixture
def part_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list of the tables' Parquet files that this process reads from now on, as a whole or in pieces."""
    found: list[str] = []

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(uri: str, *arguments: Any) -> Any:
            found.extend([uri] if "/table/" in uri and uri.endswith(".parquet") else [])
            return read(uri, *arguments)

        return counted

    from pipeline import storage

    for name in ("read", "open_file"):
        monkeypatch.setattr(storage, name, counting(getattr(storage, name)))
    return found
