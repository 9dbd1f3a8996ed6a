"""The capacity of clusters, from what configures their autoscalers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.runs import capacity
from pipeline.runs.capacity import Capacity, largest, of_node_types, of_ray_cluster

NODE_TYPES = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 4},
        "gpu": {"resources": {"CPU": 8, "GPU": 4}, "max_workers": 3},
        "any": {"resources": {"CPU": 1}},
    },
}


def group(limits: dict[str, str], **more: object) -> dict:
    containers = [{"resources": {"limits": limits}}]
    return {"template": {"spec": {"containers": containers}}, **more}


def test_of_node_types() -> None:
    # Six workers at most: four with 16 CPUs and two with 8; and three with 4 GPUs.
    assert of_node_types(NODE_TYPES) == (2 + 4 * 16 + 2 * 8, 3 * 4)
    assert of_node_types({"available_node_types": {}, "head_node_type": "head"}) == (0, 0)
    assert of_node_types(yaml.safe_load(Path("cluster.yaml").read_text()))[1] == 16  # of spot machines, and of others


def test_of_a_ray_cluster() -> None:
    spec = {
        "headGroupSpec": group({"cpu": "4"}, rayStartParams={"num-cpus": "0"}),
        "workerGroupSpecs": [
            group({"cpu": "7500m", "memory": "8Gi"}, maxReplicas=4, rayStartParams={}),
            group({"cpu": "8", "nvidia.com/gpu": "2"}, replicas=3),
        ],
    }
    assert of_ray_cluster({"spec": spec}) == (4 * 7.5 + 3 * 8, 6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Capacity(cpus=82, gpus=12, source="the node types in FILE")),
        ({"max_gpus": 1}, Capacity(cpus=82, gpus=1, source="the settings")),
        ({"max_gpus": 0, "max_cpus": 4}, Capacity(cpus=4, gpus=0, source="the settings")),
    ],
)
def test_of_the_autoscaler_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], expected: Capacity
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(NODE_TYPES))
    options = ["--gcs-address=10.0.0.1:6379", f"--autoscaling-config={file}"]
    commands = [["python", "/ray/autoscaler/_private/monitor.py", *options]]
    monkeypatch.setattr(capacity, "_commands", lambda: commands)
    both = {"max_cpus": None, "max_gpus": None} | settings
    found = largest("10.0.0.1:6379", 3, 0, is_own=False, **both)
    assert found == Capacity(**{**vars(expected), "source": expected.source.replace("FILE", str(file))})
    assert largest("10.0.0.2:6379", 3, 1, is_own=False, max_cpus=None, max_gpus=None).cpus is None
    assert largest("10.0.0.1:6379", 3, 1, is_own=True, max_cpus=None, max_gpus=None).gpus == 1
    file.write_text("[")
    assert largest("10.0.0.1:6379", 3, 1, is_own=False, max_cpus=None, max_gpus=None).gpus is None


def test_what_the_cluster_has_is_never_more_than_its_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_commands", list)
    found = largest("10.0.0.1:6379", 64, 8, is_own=False, max_cpus=4, max_gpus=2)
    assert (found.cpus, found.gpus) == (64, 8)


def test_outside_of_kubernetes_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_commands", list)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "night")
    assert largest("10.0.0.1:6379", 3, 1, is_own=False, max_cpus=None, max_gpus=None).source == "unknown"
