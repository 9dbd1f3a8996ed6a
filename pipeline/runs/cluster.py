"""The settings of a cluster: which one to connect to, or what a new one on this machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.config import check


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    address: str | None = None
    """Address of a Ray cluster; null: RAY_ADDRESS in a submitted job, otherwise a new cluster on this machine."""
    cpus: int | None = None
    """Number of CPUs of a new cluster; null: all of this machine."""
    gpus: int | None = None
    """Number of GPUs of a new cluster; null: all of this machine."""
    max_cpus: int | None = None
    """Most CPUs that a cluster may grow to; null: what the configuration of its autoscaler says."""
    max_gpus: int | None = None
    """Most GPUs that a cluster may grow to; null: what the configuration of its autoscaler says."""

    def __post_init__(self) -> None:
        check(self, "cpus", self.cpus is None or self.cpus >= 1, "be at least 1, or null")
        check(self, "gpus", self.gpus is None or self.gpus >= 0, "not be negative")
        check(self, "max_cpus", self.max_cpus is None or self.max_cpus >= 1, "be at least 1, or null")
        check(self, "max_gpus", self.max_gpus is None or self.max_gpus >= 0, "not be negative")

    @property
    def target(self) -> str:
        """The address to connect to; ``local``: a new cluster on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    @property
    def is_own(self) -> bool:
        """Whether the settings ask for a new cluster on this machine, which never grows."""
        return self.target == "local"
