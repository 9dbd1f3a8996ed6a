"""A request for one GPU, for clusters of which it is not known whether an autoscaler can start a node with a GPU.

An autoscaler starts nodes for what is asked for. Work on CPUs asks for no GPU, so without a request no GPU would ever
come. The request is a placement group, which keeps waiting while the run works on CPUs. If it has not been met after
its time, it is withdrawn. Where no autoscaler is at work, it has no effect.
"""

from __future__ import annotations

import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group


class GpuRequest:
    """A request that is open for at most ``wait_s`` seconds. Needs an open session; `withdraw` it before that ends."""

    def __init__(self, wait_s: float) -> None:
        self._until = time.monotonic() + wait_s
        self._group: PlacementGroup | None = None

    def open(self) -> bool:
        """Ask, if the time is not over. Returns whether it was asked. The request ends with this process, too."""
        if self._group is None and time.monotonic() < self._until:
            self._group = placement_group([{"GPU": 1}])
        return self.is_open

    @property
    def is_open(self) -> bool:
        return self._group is not None

    def has_expired(self) -> bool:
        """Whether the time of an open request is over; then it is withdrawn."""
        if not self.is_open or time.monotonic() < self._until:
            return False
        self.withdraw()
        return True

    def withdraw(self) -> None:
        """Take the request back. A GPU that it holds is free again, so that an actor can have it."""
        group, self._group = self._group, None
        if group is not None and ray.is_initialized():
            remove_placement_group(group)
