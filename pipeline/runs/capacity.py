"""Capacity: the most CPUs and GPUs that a cluster can have, which may be more than it has now.

Ray 2.60 has no public call that tells what an autoscaler may start. So the node groups are read where the autoscaler
reads them: in the file of the autoscaler of ``ray up`` or ``ray start``, or in the RayCluster object of KubeRay.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ANSWER_S = 10.0
_GPU_KEYS = ("nvidia.com/gpu", "amd.com/gpu")


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The most CPUs and GPUs of a cluster. None: not known, since an autoscaler may be at work that cannot be seen."""

    cpus: float | None
    gpus: float | None
    source: str
    """Where it is known from, for people."""


def largest(
    address: str, cpus: float, gpus: float, *, max_cpus: int | None, max_gpus: int | None, is_own: bool
) -> Capacity:
    """The capacity of a cluster that has ``cpus`` and ``gpus`` now, and whose control process is at ``address``.

    ``max_cpus`` and ``max_gpus`` are settings. ``is_own``: whether this job has started the cluster, which then stays
    as it is.
    """
    if is_own:
        found = Capacity(cpus=cpus, gpus=gpus, source="this machine")
    else:
        found = _of_autoscaler(address) or _of_kubernetes() or Capacity(cpus=None, gpus=None, source="unknown")
    if max_cpus is not None or max_gpus is not None:
        found = replace(
            found,
            cpus=found.cpus if max_cpus is None else max_cpus,
            gpus=found.gpus if max_gpus is None else max_gpus,
            source="the settings",
        )
    return replace(
        found,
        cpus=None if found.cpus is None else max(found.cpus, cpus),
        gpus=None if found.gpus is None else max(found.gpus, gpus),
    )


def of_node_types(config: Mapping[str, Any]) -> tuple[float, float]:
    """The most CPUs and GPUs that an autoscaler of this configuration can have, head included."""
    head = config.get("head_node_type")
    room = int(config.get("max_workers", 2))
    cpus, gpus = _resources(config.get("available_node_types", {}).get(head, {}))
    kinds = [
        (*_resources(kind), int(kind.get("max_workers", room)))
        for name, kind in config.get("available_node_types", {}).items()
        if name != head
    ]
    return (
        cpus + _most([(kind[0], kind[2]) for kind in kinds], room),
        gpus + _most([(kind[1], kind[2]) for kind in kinds], room),
    )


def of_ray_cluster(described: Mapping[str, Any]) -> tuple[float, float]:
    """The most CPUs and GPUs of a RayCluster object of KubeRay, head included."""
    spec = described["spec"]
    found = [(spec["headGroupSpec"], 1)]
    found += [(group, int(group.get("maxReplicas", group.get("replicas", 1)))) for group in spec["workerGroupSpecs"]]
    cpus = gpus = 0.0
    for group, count in found:
        parameters = group.get("rayStartParams", {})
        limits = group["template"]["spec"]["containers"][0].get("resources", {})
        limits = {**limits.get("requests", {}), **limits.get("limits", {})}
        cpus += count * float(parameters.get("num-cpus") or _quantity(limits.get("cpu", 0)))
        gpus += count * float(parameters.get("num-gpus") or sum(_quantity(limits.get(key, 0)) for key in _GPU_KEYS))
    return cpus, gpus


def _most(kinds: list[tuple[float, int]], room: int) -> float:
    """The largest sum of at most ``room`` nodes of kinds (resource of a node, most nodes)."""
    total = 0.0
    for each, most in sorted(kinds, reverse=True):
        count = min(room, most)
        total, room = total + count * each, room - count
    return total


def _resources(kind: Mapping[str, Any]) -> tuple[float, float]:
    resources = kind.get("resources") or {}
    return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))


def _quantity(text: Any) -> float:
    """A quantity of Kubernetes, such as ``2`` or ``500m``."""
    text = str(text)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _of_autoscaler(address: str) -> Capacity | None:
    """From the configuration of the autoscaler that runs on this machine, which is the head, for this cluster."""
    for command in _commands():
        if not any(part.endswith("monitor.py") and "autoscaler" in part for part in command):
            continue
        options = dict(
            part.removeprefix("--").split("=", 1) for part in command if part.startswith("--") and "=" in part
        )
        if options.get("gcs-address") != address:
            continue
        file = options.get("autoscaling-config")
        if not file or file == "None":
            return Capacity(cpus=0, gpus=0, source="a cluster without an autoscaler")
        try:
            config = yaml.safe_load(Path(file).expanduser().read_text())
            cpus, gpus = of_node_types(config)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
            return None
        return Capacity(cpus=cpus, gpus=gpus, source=f"the node types in {file}")
    return None


def _commands() -> list[list[str]]:
    """The command lines of the processes on this machine."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace").split("\0"))
            except OSError:
                continue
    return found


def _of_kubernetes() -> Capacity | None:
    """From the RayCluster object, where this process runs in a pod of KubeRay."""
    host, name = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("RAY_CLUSTER_NAME")
    if not host or not name:
        return None
    try:
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        space = os.environ.get("RAY_CLUSTER_NAMESPACE") or (_ACCOUNT / "namespace").read_text().strip()
        request = urllib.request.Request(
            f"https://{host}:{port}/apis/ray.io/v1/namespaces/{space}/rayclusters/{name}",
            headers={"Authorization": f"Bearer {(_ACCOUNT / 'token').read_text().strip()}"},
        )
        context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, timeout=_ANSWER_S, context=context) as answer:
            cpus, gpus = of_ray_cluster(json.load(answer))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return Capacity(cpus=cpus, gpus=gpus, source=f"the groups of the RayCluster {name}")
