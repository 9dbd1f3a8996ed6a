"""What every test may use: a cluster, real data, counted reads. Shapes of ``pipeline.models`` are checked in tests."""

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

# Ray's workers would run at niceness 15, and starve beside the other processes of a suite that runs in several.
os.environ.setdefault("RAY_worker_niceness", "0")
# One process less for each training; no machine of a test gives notice that it will be taken away.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Machines that run tests are shared and slow at times; a test that hangs has pytest's own timeout.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")
# Threads that wait for each other take most of the time of a small model.
torch.set_num_threads(1)
_HOOK = install_import_hook("pipeline.models", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes waits until it is asked for, and slow files come first: parallel processes end together."""
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
    """``--dist loadfile``, but that all files of the S3 server share one process, and so do those of the jobs."""
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
    """The folder of real data sets, from ``PARQUETRY_DATA``; tests that need it skip where there is none."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("PARQUETRY_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; PARQUETRY_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray cluster with two CPUs for all tests that need one.

    Its workers have the environment of the moment it starts, and so no S3 server that a test starts later.
    """
    from pipeline.distributed.session import ClusterConfig, session

    with session(ClusterConfig(address="local", cpus=2, gpus=0)):
        yield


@pytest.fixture
def part_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Parquet files of tables that this process reads from now on, whole or in pieces."""
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
