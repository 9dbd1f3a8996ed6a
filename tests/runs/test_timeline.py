"""The timeline of a run: exact sums, however long the run."""

from __future__ import annotations

import pytest

from pipeline.runs.timeline import Timeline


def test_bins_are_joined_and_nothing_is_lost() -> None:
    line = Timeline()
    for second in range(1000):
        line.add(2, 10, {"fetch": 0.5}, at_s=second + 0.5)
    found = line.described()
    assert (found["width_s"], len(found["bins"]) <= 120) == (16.0, True)
    assert sum(item["rows"] for item in found["bins"]) == 2000
    assert sum(item["fetch"] for item in found["bins"]) == pytest.approx(500)
    assert found["bins"][3] == {"rows": 32, "bytes": 160, "fetch": 8.0}
    assert found["first_part_s"] == 0.5


def test_a_part_may_come_late() -> None:
    line = Timeline()
    line.add(1, 0, {}, at_s=1e6)
    found = line.described()
    assert len(found["bins"]) <= 120
    assert sum(item.get("rows", 0) for item in found["bins"]) == 1


def test_the_most_that_the_cluster_had_is_kept() -> None:
    line = Timeline()
    assert line.is_unseen
    line.look({"actors_running": 2, "cpus": 4, "gpus": 0, "blocks_queued": 6})
    line.look({"actors_running": 1, "cpus": 8, "gpus": 0, "blocks_queued": 0})
    line.look({"actors_running": 0, "cpus": 1, "gpus": 0, "blocks_queued": 0})
    found = line.described()
    assert (found["actors"], found["cpus"], found["blocks_queued"], line.is_unseen) == (2, 8, 3, False)
