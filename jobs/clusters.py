"""What commands do on a cluster that also work without one, and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from jobs.console import say
from pipeline.distributed.evaluating import scores_on_cluster
from pipeline.distributed.session import cluster_size, require_gpu, session
from pipeline.package import Package
from pipeline.quality.scoring import Scorer
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.device import Device


def evaluated_on_cluster(
    scorer: Scorer,
    described: Package,
    rows: pa.Table,
    out: str,
    *,
    cluster: ClusterConfig,
    device: Literal["auto", "cpu", "gpu"],
    stall_timeout_s: float,
    progress: Callable[[int], None],
) -> pa.Table:
    """The scores of inputs, from the cluster at an address. ``out``: a folder that all its nodes see."""
    with session(cluster):
        if device == "gpu":
            require_gpu(cluster, "device 'gpu'")
        has_gpu = device == "gpu" or (device == "auto" and cluster_size("GPU") > 0)
        chosen: Device = "gpu" if has_gpu else "cpu"
        say(f"on the {chosen.upper()}s of the cluster")
        return scores_on_cluster(
            scorer, described, rows, out, device=chosen, stall_timeout_s=stall_timeout_s, progress=progress, say=say
        )
