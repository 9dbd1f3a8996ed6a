"""A plot of means with their intervals, as SVG for a page of the docs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _TOP, _LEFT, _RIGHT = 720, 26, 40, 260, 30
_GROUP_GAP = 18
_COLOURS = ("#3366aa", "#bb5533", "#338855", "#775599", "#886611", "#555555")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A mean, the reach of its interval to either side (None: not known), and the values that it is the mean of."""

    name: str
    mean: float
    reach: float | None
    values: Sequence[float]


def interval_plot(title: str, groups: Mapping[str, Sequence[Mark]], axis: str) -> str:
    """One row for each mark, in groups with a heading; the axis is the same for all."""
    marks = [mark for group in groups.values() for mark in group]
    ends = [
        value
        for mark in marks
        for value in (*mark.values, mark.mean - (mark.reach or 0), mark.mean + (mark.reach or 0))
    ]
    low, high = min(ends), max(ends)
    pad = 0.05 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    names = list(dict.fromkeys(mark.name for mark in marks))
    body, y = [f'<text x="12" y="22" font-size="15">{escape(title)}</text>'], float(_TOP)
    for heading, group in groups.items():
        y += _ROW
        body.append(f'<text x="12" y="{y + 4:g}" font-weight="bold">{escape(heading)}</text>')
        for mark in group:
            colour = _COLOURS[names.index(mark.name) % len(_COLOURS)]
            body.append(f'<text x="{_LEFT - 12}" y="{y + 4:g}" text-anchor="end">{escape(mark.name)}</text>')
            if mark.reach is not None:
                ends = (x(mark.mean - mark.reach), x(mark.mean + mark.reach))
                body.append(f'<path d="M{ends[0]:.1f} {y:g}H{ends[1]:.1f}" stroke="{colour}" stroke-width="2"/>')
            body += [
                f'<circle cx="{x(value):.1f}" cy="{y:g}" r="2.5" fill="none" stroke="{colour}"/>'
                for value in mark.values
            ]
            body.append(f'<circle cx="{x(mark.mean):.1f}" cy="{y:g}" r="5" fill="{colour}"/>')
            body.append(f'<text x="{x(mark.mean):.1f}" y="{y - 8:g}" text-anchor="middle">{mark.mean:.3f}</text>')
            y += _ROW + 4
        y += _GROUP_GAP - _ROW
    y += _ROW
    body.append(f'<path d="M{_LEFT} {y:g}H{_WIDTH - _RIGHT}" stroke="#888"/>')
    for value in round_numbers(low, high):
        body.append(f'<path d="M{x(value):.1f} {y:g}v4" stroke="#888"/>')
        body.append(f'<text x="{x(value):.1f}" y="{y + 16:g}" text-anchor="middle">{value:g}</text>')
    body.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{y + 34:g}" text-anchor="middle">{escape(axis)}</text>'
    )
    height = y + 46
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" role="img"'
    back = f'<rect width="{_WIDTH}" height="{height:g}" fill="#fff"/>'
    return f'{head} aria-label="{escape(title)}">{back}<g {style}>{"".join(body)}</g></svg>\n'


def round_numbers(low: float, high: float) -> list[float]:
    """Three to ten multiples of 1, 2 or 5 times a power of ten in [low, high], ``low`` being less than ``high``."""
    least = (high - low) / 10
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return [float(f"{index * step:.12g}") for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
