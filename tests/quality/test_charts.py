"""Charts are well-formed, named, and as large as their numbers."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from pipeline.quality.charts import Line, bars, columns, histogram, legend, lines, number, shares, ticks

NAME = "<b>&\"'"


def parsed(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{chart}</div>")


CHARTS = {
    "bars": bars(NAME, [(NAME, 3), ("b" * 90, 0)], unit=NAME),
    "no bars": bars(NAME, []),
    "shares": shares(NAME, [(NAME, {NAME: 1.0, "b": 3.0}), ("empty", {})], {NAME: (1, 2, 3)}),
    "lines": lines(NAME, [Line(name=NAME, x=[0, 1], y=[1, math.nan], low=[0, 0], high=[2, 2])], x_label=NAME),
    "no lines": lines(NAME, [Line(name="nan", x=[1], y=[math.nan])]),
    "one point": lines(NAME, [Line(name="a", x=[5], y=[5]), Line(name="b", x=[5], y=[5])]),
    "columns": columns(NAME, 2.0, {NAME: [1, 0, 3], "b": [0, 0, 1]}, y_label=NAME),
    "no columns": columns(NAME, 1.0, {}),
    "histogram": histogram(NAME, 0, 1, [1, 2, 3], [[1, 1, 1], [0, 0, 9], [0, 0, 0]], x_label=NAME),
    "empty histogram": histogram(NAME, 0, 1, [0, 0]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_well_formed_and_tells_a_screen_reader_what_it_shows(name: str) -> None:
    chart = parsed(CHARTS[name])[0]
    assert (chart.tag, chart.get("role")) == ("svg", "img")
    labels = (chart.get("aria-labelledby") or "").split()
    found = {item.get("id"): item.text for item in chart.iter() if item.get("id")}
    assert list(found) == labels
    assert found[labels[0]] == NAME
    assert "nan" not in "".join(value for item in chart.iter() for key, value in item.items() if key != "id")


def test_bars_are_as_long_as_their_values() -> None:
    widths = [float(item.get("width", "")) for item in parsed(bars("t", [("a", 4), ("b", 1)])).iter("rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=1e-3)


def test_shares_fill_each_bar() -> None:
    found = parsed(shares("t", [("one", {"a": 1, "b": 3}), ("two", {"a": 5, "b": 5})]))
    widths = [float(item.get("width", "")) for item in found[0].iter("rect")]
    assert widths[0] + widths[1] == pytest.approx(widths[2] + widths[3], abs=0.1)
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-2)


def test_names_of_two_charts_differ() -> None:
    one, other = (parsed(bars("t", [])).find(".//title") for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.get("id") != other.get("id")


def test_a_legend_has_the_colours() -> None:
    assert 'fill="rgb(1,2,3)"' in legend({NAME: (1, 2, 3)})
    parsed(legend({NAME: (1, 2, 3)}))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 100, [0, 25, 50, 75, 100]),
        (3, 3, [0, 1, 2, 3]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 4) == expected


def test_numbers_are_for_people() -> None:
    shown = [number(value) for value in (0, 0.125, 12, 12345, 1.5e6, 3.2e7, math.nan)]
    assert shown == ["0", "0.125", "12", "12,345", "1.5M", "32M", "–"]


def test_an_axis_of_powers_shows_what_the_logarithms_are_of() -> None:
    chart = parsed(histogram("Length", 0, 5, [0, 0, 3, 1, 0], powers=True, of="documents"))
    words = [text.text for text in chart.iter("text")]
    assert {"1", "10", "100", "1,000", "10,000", "100,000", "share of documents"} <= set(words)
    assert "100 and 1,000" in "".join(found.text or "" for found in chart.iter("desc"))
    last = next(text for text in chart.iter("text") if text.text == "100,000")
    assert last.get("text-anchor") == "end", "it would be cut at the edge"


def test_a_line_of_one_point_has_one_tick_below_it_and_an_axis_from_zero() -> None:
    drawn = str(lines("mIoU", [Line(name="val", x=[152], y=[0.66])]))
    assert drawn.count(">152<") == 1
    assert "153" not in drawn
    assert ">0<" in drawn
    assert "-0.5" not in drawn
