"""The device of a stream: whether models run on GPUs or on CPUs, decided again while the cluster changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pipeline.runs.capacity import Capacity

Device = Literal["cpu", "gpu"]

_LOOK_S = 5.0


class DeviceChoice:
    """The device on which the stream runs now. `has_changed` says when it must be planned anew."""

    def __init__(
        self,
        wanted: Literal["auto", "cpu", "gpu"],
        capacity: Capacity,
        gpu_wait_s: float,
        gpus: Callable[[], float],
    ) -> None:
        """``gpus`` tells how many GPUs the cluster has at the moment."""
        self._wanted, self._capacity, self._gpu_wait_s, self._gpus = wanted, capacity, gpu_wait_s, gpus
        self._since = self._looked = time.monotonic()  # when there was a GPU the last time, or the start
        self.now: Device = self._choose(self._gpus())

    def reason(self) -> str:
        """The device and why, for people."""
        gpus, source = self._gpus(), self._capacity.source
        if self._wanted != "auto":
            return f"on {self.now.upper()}s, as stream.device says"
        if self.now == "gpu":
            has = f"the cluster has {gpus:g}" if gpus else "none is there yet"
            can = "" if self._capacity.gpus is None else f", and can have {self._capacity.gpus:g} ({source})"
            return f"on GPUs: {has}{can}"
        if self._capacity.gpus:
            return f"on CPUs: no GPU has come in {self._gpu_wait_s:g} s"
        return f"on CPUs: the cluster has no GPU ({source})"

    @property
    def is_uncertain(self) -> bool:
        """Whether CPUs are used although a GPU may come: nothing is known of an autoscaler."""
        return self._wanted == "auto" and self.now == "cpu" and self._capacity.gpus is None

    def most_actors(self) -> float | None:
        """How many CPUs or GPUs the cluster can have for models; None: unknown."""
        return self._capacity.gpus if self.now == "gpu" else self._capacity.cpus

    def has_changed(self) -> bool:
        """Look at the cluster, at most every few seconds. Returns whether `now` is another device than before."""
        if self._wanted != "auto" or time.monotonic() - self._looked < _LOOK_S:
            return False
        self._looked = time.monotonic()
        before, self.now = self.now, self._choose(self._gpus())
        return self.now != before

    def _choose(self, gpus: float) -> Device:
        if self._wanted == "gpu" or self._wanted == "cpu":
            return self._wanted
        if gpus:
            self._since = time.monotonic()
            return "gpu"
        can_come = bool(self._capacity.gpus)
        if can_come and time.monotonic() - self._since < self._gpu_wait_s:
            return "gpu"
        return "cpu"
