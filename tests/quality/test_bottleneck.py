"""What bound a run, and which option helps."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.quality.bottleneck import Usage, advice


def usage(**changes: Any) -> Usage:
    """A run of ten minutes whose four CPUs spent most of their time in the model."""
    seconds = {"fetch": 200.0, "prepare": 300.0, "predict": 1500.0, "encode": 200.0, "write": 50.0}
    known: dict[str, Any] = {
        "seconds": 600.0,
        "first_part_s": 10.0,
        "stage_seconds": seconds | changes.pop("stage_seconds", {}),
        "actors": 4,
        "cpus": 4.0,
        "gpus": 0.0,
        "on_gpu": False,
        "blocks_queued": 3.0,
        "fetch_threads": 16,
        "block_rows": 128,
    }
    return Usage(**known | changes)


ON_GPU: dict[str, Any] = {"on_gpu": True, "gpus": 1.0, "actors": 1}


@pytest.mark.parametrize(
    ("changes", "bound", "option"),
    [
        ({}, "predict", "--cluster.cpus 8"),
        ({"actors": 2}, "predict", "--stream.actors 4"),
        ({"gpus": 1.0}, "predict", "--stream.device gpu"),
        ({"stage_seconds": {"fetch": 2500.0}}, "fetch", "--stream.fetch.threads 32"),
        ({"stage_seconds": {"write": 2500.0}}, "write", "--stream.block-rows 512"),
        ({"stage_seconds": {"prepare": 2500.0}, "actors": 3}, "prepare", "--stream.actors 4"),
        ({"actors": 16, "cpus": 16.0, "blocks_queued": 0.0}, "blocks", "--stream.block-rows 32"),
        ({**ON_GPU, "stage_seconds": {"predict": 550.0}}, "predict", "--stream.actors 2"),
        ({**ON_GPU, "stage_seconds": {"predict": 200.0}}, "prepare", "--stream.gpus-per-actor 0.5"),
        ({**ON_GPU, "stage_seconds": {"predict": 200.0}, "blocks_queued": 0.0}, "prepare", "--cluster.cpus 8"),
        ({"first_part_s": 400.0}, "start", None),
        ({"seconds": 12.0}, "nothing", None),
        ({"first_part_s": None}, "nothing", None),
        ({"stage_seconds": dict.fromkeys(("fetch", "prepare", "predict", "encode", "write"), 0.0)}, "nothing", None),
    ],
)
def test_one_setting_is_named(changes: dict[str, Any], bound: str, option: str | None) -> None:
    found = advice(usage(**changes))
    assert found.bound == bound
    assert (found.option or "").partition(",")[0] == (option or "")
    assert found.text.endswith(".")


def test_a_short_run_says_so() -> None:
    assert "too short to say" in advice(usage(seconds=3.0, first_part_s=1.0)).text
