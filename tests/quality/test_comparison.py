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


def test_models_of_other_classes_are_not_compared_in_silence() -> None:
    found = FOUND | {"classes_differ": True, "mean_iou": None, "largest_area_shift": None}
    assert Gates(min_mean_iou=0.5).broken(found) == [
        "the classes of the two models differ, so their masks cannot be compared"
    ]
    assert Gates().broken(found) == []


def test_a_listing_that_shrinks() -> None:
    assert Gates().broken_listing(50, 100) is None
    assert Gates().broken_listing(0, 0) is None
    assert Gates(min_listed=None).broken_listing(0, 100) is None
    assert "49% of the 100 of last time, below min_listed 0.5" in str(Gates().broken_listing(49, 100))


@pytest.mark.parametrize("name", ["min_mean_iou", "min_boundary_f1", "max_area_shift", "max_error_rate", "min_listed"])
def test_gates_are_fractions(name: str) -> None:
    with pytest.raises(RequestError, match=rf"Gates\.{name} must be in \[0, 1\], or null, got -0.1"):
        Gates(**{name: -0.1})
