"""cluster.yaml against Ray's own schema, and the two rules that it is there for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parent.parent / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == cluster["max_workers"]


def test_ray_would_refuse_a_wrong_one(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(cluster | {"max_wrokers": 3}))


def test_the_head_works_not_and_workers_come_and_go(cluster: dict[str, Any]) -> None:
    nodes = cluster["available_node_types"]
    assert nodes[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    workers = [node for name, node in nodes.items() if name != cluster["head_node_type"]]
    assert any(node["resources"].get("GPU") for node in workers)
    assert any(not node["resources"].get("GPU") for node in workers)
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers)


def test_only_what_is_installed_is_mounted(cluster: dict[str, Any]) -> None:
    """Ray reads all that it mounts, at every `ray up`: environments and tables beside the code, too."""
    needed = {"jobs", "pipeline", "pyproject.toml", "constraints.txt", "README.md"}
    assert set(cluster["file_mounts"].values()) == needed
    assert all((FILE.parent / name).exists() for name in needed)


def test_ray_is_started_with_the_python_that_is_installed(cluster: dict[str, Any]) -> None:
    installed = "/home/ubuntu/environment/bin"
    assert any(f"{installed}/pip install" in line for line in cluster["setup_commands"])
    for line in [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]:
        assert line.startswith(f"PATH={installed}:$PATH ray "), line
