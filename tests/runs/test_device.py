"""The device of a stream: from what the cluster has and can have, and decided again when that changes."""

from __future__ import annotations

from typing import Literal

import pytest

from pipeline.runs import device
from pipeline.runs.capacity import Capacity
from pipeline.runs.device import DeviceChoice


class Cluster:
    """A cluster whose GPUs and whose clock the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus, self.now = 0.0, 1000.0
        monkeypatch.setattr(device.time, "monotonic", lambda: self.now)

    def choice(self, wanted: Literal["auto", "cpu", "gpu"], most: float | None) -> DeviceChoice:
        return DeviceChoice(wanted, Capacity(cpus=4, gpus=most, source="a test"), 60.0, lambda: self.gpus)


def test_gpus_are_waited_for_where_they_can_come_and_used_when_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    found = cluster.choice("auto", 2)
    assert (found.now, found.reason()) == ("gpu", "on GPUs: none is there yet, and can have 2 (a test)")
    cluster.now += 50
    assert not found.has_changed()
    cluster.now += 20
    assert found.has_changed()
    assert (found.now, found.reason()) == ("cpu", "on CPUs: no GPU has come in 60 s")
    cluster.now, cluster.gpus = cluster.now + 10, 1.0
    assert found.has_changed()
    assert (found.now, found.reason()) == ("gpu", "on GPUs: the cluster has 1, and can have 2 (a test)")
    cluster.now, cluster.gpus = cluster.now + 30, 0.0
    assert not found.has_changed(), "another may come"
    cluster.now += 60
    assert found.has_changed()


@pytest.mark.parametrize("most", [0, None])
def test_without_gpus_to_come_cpus_are_used_until_one_joins(
    monkeypatch: pytest.MonkeyPatch, most: float | None
) -> None:
    cluster = Cluster(monkeypatch)
    found = cluster.choice("auto", most)
    assert (found.now, found.reason()) == ("cpu", "on CPUs: the cluster has no GPU (a test)")
    assert found.is_uncertain == (most is None)
    cluster.gpus = 1.0
    assert not found.has_changed(), "it has just looked"
    cluster.now += 10
    assert (found.has_changed(), found.now, found.is_uncertain) == (True, "gpu", False)


@pytest.mark.parametrize("wanted", ["cpu", "gpu"])
def test_a_setting_is_kept(monkeypatch: pytest.MonkeyPatch, wanted: Literal["cpu", "gpu"]) -> None:
    cluster = Cluster(monkeypatch)
    found = cluster.choice(wanted, 2)
    for cluster.gpus in (0.0, 2.0):
        cluster.now += 100
        assert (found.has_changed(), found.now) == (False, wanted)
    assert not found.is_uncertain
    assert found.reason() == f"on {wanted.upper()}s, as stream.device says"
