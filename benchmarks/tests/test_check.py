"""The guard against slower versions says what became worse, and by how much."""

from __future__ import annotations

import pytest

from benchmarks.check import GUARDED, Guarded, verdict


@pytest.mark.parametrize(
    ("is_better", "value", "is_worse"),
    [("higher", 0.8, False), ("higher", 0.7, True), ("higher", 5, False), ("lower", 1.2, False), ("lower", 1.3, True)],
)
def test_a_ratio_may_be_a_quarter_worse(is_better: str, value: float, is_worse: bool) -> None:
    one = Guarded(benchmark="training", name="ratio", is_better=is_better)
    found = verdict(one, {"ratio": value}, {"ratio": 1.0})
    assert found == ([f"ratio of training is {value:.3g}, and was 1; {is_better} is better"] if is_worse else [])


def test_what_is_not_measured_or_not_stored_is_no_success() -> None:
    one = GUARDED[0]
    assert verdict(one, {one.name: None}, {one.name: 1.0}) == [f"{one.name} of {one.benchmark} was not measured"]
    assert verdict(one, {one.name: 1.0}, {}) == [f"{one.name} of {one.benchmark} is not stored"]
