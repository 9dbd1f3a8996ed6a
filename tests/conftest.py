"""Fixtures that every test may use. Shapes in annotations of ``pipeline.models`` are checked while tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

pytest_plugins = ["tests.s3.fixtures"]

# Machines that run tests are shared and slow at times; a test that hangs has pytest's own timeout.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")
# Threads that wait for each other take most of the time of a small model.
torch.set_num_threads(1)
_HOOK = install_import_hook("pipeline.models", "beartype.beartype")


@pytest.hookimpl(tryfirst=True)  # before what deals by groups reads them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes waits until it is asked for; the rest is dealt to parallel processes, slow files first.

    A file stays in one process, because its tests share what took long to make. So do all that need an S3 server.
    """
    if not os.environ.get("PARQUETRY_HEAVY"):
        for item in items:
            if item.get_closest_marker("heavy"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; PARQUETRY_HEAVY=1 runs it"))
    groups: dict[str, int] = {}
    for item in items:
        marked = {name for name in ("s3", "ray") if item.get_closest_marker(name)}
        group = "s3" if "s3" in marked or "tests/s3/" in item.nodeid else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        groups[group] = min(groups.get(group, 2), 0 if "s3" in marked else 1 if "ray" in marked else 2)
    items.sort(key=lambda item: groups[_group(item)])


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return marker.args[0]


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
    """One local Ray cluster with two CPUs for all tests that need one."""
    from pipeline.distributed.session import ClusterConfig, session

    with session(ClusterConfig(address="local", cpus=2, gpus=0)):
        yield
