"""Ticks of the plot of intervals: round numbers, at the places that they name."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measures.interval_plot import Mark, interval_plot, round_numbers


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6))
def test_ticks_are_few_round_numbers_inside(low: float, span: float) -> None:
    found = round_numbers(low, low + span)
    assert 3 <= len(found) <= 12
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in found)
    steps = {round((after - before) / span, 6) for before, after in itertools.pairwise(found)}
    assert max(steps) - min(steps) < 1e-3


def test_a_tick_stands_where_a_mark_of_its_value_does() -> None:
    marks = [Mark(name=str(value), mean=value, reach=0.01, values=[value]) for value in (0.25, 0.3)]
    plot = interval_plot("title", {"group": marks}, "axis")
    ticks = {
        text: x for x, text in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d.]+)</text>', plot)
    }
    assert ticks["0.25"] == ticks["0.250"]
    assert float(ticks["0.25"]) < float(ticks["0.3"]) == pytest.approx(float(ticks["0.300"]))
