"""Gates, on figures made by hand; comparisons of whole tables are tested with nights."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import RequestError
from pipeline.quality.comparison import Gates

FOUND: dict[str, Any] = {
    "pairs": 10,
    "mean_iou": 0.85,
    "largest_area_shift": 0.04,
    "newly_failed_rate": 0.1,
    "classes_differ": False,
}


def test_gates_are_passed_up_to_their_limits() -> None:
    assert Gates(min_mean_iou=0.85, max_area_shift=0.04, max_error_rate=0.1).broken(FOUND) == []
    assert Gates(max_error_rate=None).broken(FOUND) == []
    reasons = Gates(min_mean_iou=0.86, max_area_shift=0.03, max_error_rate=0.05).broken(FOUND)
    assert [reason.split(" is ")[1] for reason in reasons] == [
        "0.85, below min_mean_iou 0.86",
        "0.04, above max_area_shift 0.03",
        "0.1, above max_error_rate 0.05",
    ]


def test_what_could_not_be_measured_is_not_passed() -> None:
    nothing = {"pairs": 0, "mean_iou": None, "newly_failed_rate": None, "classes_differ": False}
    reasons = Gates(min_mean_iou=0.5, min_boundary_f1=0.5).broken(nothing)
    assert [reason.split(" could")[0] for reason in reasons] == [
        "the mean IoU with the old model",
        "the rate of inputs that fail only with the new model",
    ]
    assert Gates(max_error_rate=None).broken(nothing) == []


def test_models_of_other_classes_are_not_compared_in_silence() -> None:
    found = FOUND | {"classes_differ": True, "mean_iou": None, "largest_area_shift": None}
    assert Gates(min_mean_iou=0.5).broken(found)[-1] == (
        "the classes of the two models differ, so their masks cannot be compared"
    )
    assert len(Gates().broken(found)) == 1, "also where no gate is set"


def test_a_listing_that_shrinks() -> None:
    assert Gates().broken_listing(50, 100) is None
    assert Gates().broken_listing(0, 0) is None
    assert Gates(min_listed=None).broken_listing(0, 100) is None
    assert "49% of the 100 of last time, below min_listed 0.5" in str(Gates().broken_listing(49, 100))


@pytest.mark.parametrize("name", ["min_mean_iou", "min_boundary_f1", "max_area_shift", "max_error_rate", "min_listed"])
def test_gates_are_fractions(name: str) -> None:
    with pytest.raises(RequestError, match=rf"Gates\.{name} must be in \[0, 1\], or null, got -0.1"):
        Gates(**{name: -0.1})
