"""Charts as SVG: bars, lines with bands, stacked shares, columns over time, and histograms.

Each chart is markup for a page of `pipeline.quality.pages`, whose style sheet gives its colours, so that it is legible
on light and dark. It needs no script. A screen reader hears ``title`` and ``summary``; texts are escaped here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 24, 38
_SERIES = 6  # colours in the style sheet
_ROW, _LABEL = 24, 128  # height of a row of bars, and width of its label
_LABEL_CHARS = 19
_numbers = itertools.count(1)

Colour = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart, with a band between ``low`` and ``high`` if they are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def bars(title: str, values: Sequence[tuple[str, float]], *, unit: str = "") -> Markup:
    """Horizontal bars, one for each name, with their values."""
    most = max((value for _, value in values), default=0) or 1
    room = WIDTH - _LABEL - 76
    body = []
    for row, (name, value) in enumerate(values):
        y, length = 6 + row * _ROW, max(1.0, room * value / most)
        body += [
            _text(_LABEL - 8, y + 14, _short(name), anchor="end", full=name),
            Markup('<rect class="s0" x="{}" y="{}" width="{}" height="16" rx="2"/>').format(_LABEL, y + 2, _n(length)),
            _text(_LABEL + length + 6, y + 14, number(value) + unit),
        ]
    summary = ", ".join(f"{name} {number(value)}{unit}" for name, value in values)
    return _svg(title, summary, body, height=12 + _ROW * len(values))


def shares(
    title: str,
    rows: Sequence[tuple[str, Mapping[str, float]]],
    colours: Mapping[str, Colour] | None = None,
) -> Markup:
    """Horizontal bars of the same length, each cut into the shares of its parts. ``colours``: red, green, blue."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    room, body = WIDTH - _LABEL - 12, []
    for row, (label, parts) in enumerate(rows):
        y, x, total = 6 + row * _ROW, float(_LABEL), sum(parts.values()) or 1
        body.append(_text(_LABEL - 8, y + 14, _short(label), anchor="end", full=label))
        for name, value in parts.items():
            width = room * value / total
            if width > 0:
                hint = escape(f"{name}: {value / total:.1%}")
                style = _fill(names.index(name), (colours or {}).get(name))
                what = '<rect {} x="{}" y="{}" width="{}" height="16"><title>{}</title></rect>'
                body.append(Markup(what).format(style, _n(x), y + 2, _n(width), hint))
            x += width
    said = "; ".join(
        f"{label}: " + ", ".join(f"{name} {value / (sum(parts.values()) or 1):.0%}" for name, value in parts.items())
        for label, parts in rows
    )
    legend = _legend([(name, (colours or {}).get(name)) for name in names])
    return _svg(title, said, body, height=12 + _ROW * len(rows)) + legend


def lines(title: str, series: Sequence[Line], *, x_label: str = "", y_label: str = "") -> Markup:
    """Lines over a common axis."""
    points = [(x, y) for line in series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    edges = [value for line in series for value in (*line.low, *line.high) if math.isfinite(value)]
    if not points:
        return _svg(title, "no values", [], height=_TOP)
    frame = _Frame.of([x for x, _ in points], [*(y for _, y in points), *edges])
    body = frame.axes(x_label, y_label)
    for index, line in enumerate(series):
        if line.low and line.high:
            there = [(x, y) for x, y in zip(line.x, line.high, strict=True)]
            back = [(x, y) for x, y in zip(line.x, line.low, strict=True)]
            path = " ".join(f"{_n(frame.x(x))},{_n(frame.y(y))}" for x, y in [*there, *reversed(back)])
            body.append(Markup('<polygon class="band s{}" points="{}"/>').format(index % _SERIES, path))
        finite = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        path = " ".join(f"{_n(frame.x(x))},{_n(frame.y(y))}" for x, y in finite)
        body.append(Markup('<polyline class="line s{}" points="{}"/>').format(index % _SERIES, path))
        if finite and len(finite) <= 40:
            dot = '<circle class="s{}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>'
            for x, y in finite:
                hint = f"{line.name}: {number(y)} at {number(x)}"
                body.append(Markup(dot).format(index % _SERIES, _n(frame.x(x)), _n(frame.y(y)), hint))
    ends = [f"{line.name} from {number(line.y[0])} to {number(line.y[-1])}" for line in series if len(line.y)]
    legend = _legend([(line.name, None) for line in series]) if len(series) > 1 else Markup()
    return _svg(title, "; ".join(ends), body) + legend


def columns(
    title: str, width: float, parts: Mapping[str, Sequence[float]], *, x_label: str = "", y_label: str = ""
) -> Markup:
    """Stacked columns over time: ``parts`` are values of bins that are ``width`` wide, from 0 on."""
    count = max((len(values) for values in parts.values()), default=0)
    totals = [sum(values[place] for values in parts.values()) for place in range(count)]
    if not count:
        return _svg(title, "no values", [], height=_TOP)
    frame = _Frame.of([0, count * width], [0, *totals])
    body = frame.axes(x_label, y_label)
    for place in range(count):
        below = 0.0
        for index, values in enumerate(parts.values()):
            if values[place] <= 0:
                continue
            left, right = frame.x(place * width), frame.x((place + 1) * width)
            top, bottom = frame.y(below + values[place]), frame.y(below)
            gap = 1 if right - left > 4 else 0
            what = '<rect class="s{}" x="{}" y="{}" width="{}" height="{}"/>'
            shape = (_n(left), _n(top), _n(max(0.5, right - left - gap)), _n(max(0.5, bottom - top)))
            body.append(Markup(what).format(index % _SERIES, *shape))
            below += values[place]
    said = f"{', '.join(parts)}; from 0 to {number(count * width)}, at most {number(max(totals))}"
    legend = _legend([(name, None) for name in parts]) if len(parts) > 1 else Markup()
    return _svg(title, said, body) + legend


def histogram(
    title: str,
    low: float,
    high: float,
    counts: Sequence[float],
    reference: Sequence[Sequence[float]] = (),
    *,
    x_label: str = "",
    names: tuple[str, str] = ("this run", "earlier runs, lowest to highest"),
    of: str = "rows",
    powers: bool = False,
) -> Markup:
    """The shares of bins of equal width between ``low`` and ``high``, as columns; and those of other histograms as a
    line through their mean, within a band from the lowest to the highest. ``powers``: the values are common logarithms,
    and the axis shows what they are logarithms of."""

    def shown(value: float) -> str:
        return number(float(f"{10**value:.2g}") if powers else value)

    mine, others = _normal(counts), [_normal(found) for found in reference if sum(found)]
    frame = _Frame.of([low, high], [0, *mine, *(value for found in others for value in found)])
    body, step = frame.axes(x_label, f"share of {of}", percent=True, shown=shown), (high - low) / max(1, len(mine))
    for place, value in enumerate(mine):
        left, right, top = frame.x(low + place * step), frame.x(low + (place + 1) * step), frame.y(value)
        if value > 0:
            hint = f"{shown(low + place * step)} to {shown(low + (place + 1) * step)}: {value:.1%}"
            what = '<rect class="s0" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            shape = (_n(left), _n(top), _n(max(0.5, right - left - 1)), _n(max(0.5, frame.y(0) - top)))
            body.append(Markup(what).format(*shape, hint))
    if others:
        middles = [frame.x(low + (place + 0.5) * step) for place in range(len(mine))]
        spread = list(zip(*others, strict=True))
        band = [
            *zip(middles, map(max, spread), strict=True),
            *reversed(list(zip(middles, map(min, spread), strict=True))),
        ]
        path = " ".join(f"{_n(x)},{_n(frame.y(y))}" for x, y in band)
        body.append(Markup('<polygon class="band s1" points="{}"/>').format(path))
        mean = " ".join(
            f"{_n(x)},{_n(frame.y(sum(found) / len(found)))}" for x, found in zip(middles, spread, strict=True)
        )
        body.append(Markup('<polyline class="line s1" points="{}"/>').format(mean))
    most = max(range(len(mine)), key=lambda place: mine[place], default=0)
    said = f"most {of} lie between {shown(low + most * step)} and {shown(low + (most + 1) * step)}"
    legend = _legend([(names[0], None), (names[1], None)]) if others else Markup()
    return _svg(title, said, body) + legend


def number(value: float) -> str:
    """A number for people: 1,234, 0.125, 3.2e+07 as 32M."""
    if not math.isfinite(value):
        return "–"
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= 10 * limit or (abs(value) >= limit and value % (limit / 10) == 0):
            return f"{value / limit:.3g}{letter}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The axes of a chart: values to places in the picture."""

    x_ticks: list[float]
    y_ticks: list[float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @classmethod
    def of(cls, xs: Sequence[float], ys: Sequence[float]) -> _Frame:
        y_ticks = ticks(min(ys), max(ys), 4)
        x_low, x_high = min(xs), max(xs)
        if x_low == x_high:  # one place, in the middle
            middle = (x_low - 1, x_low + 1)
            return cls(x_ticks=[x_low], y_ticks=y_ticks, x_range=middle, y_range=(y_ticks[0], y_ticks[-1]))
        inside = [tick for tick in ticks(x_low, x_high, 5) if x_low - 1e-9 <= tick <= x_high + 1e-9]
        return cls(x_ticks=inside, y_ticks=y_ticks, x_range=(x_low, x_high), y_range=(y_ticks[0], y_ticks[-1]))

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def axes(
        self, x_label: str, y_label: str, percent: bool = False, shown: Callable[[float], str] = number
    ) -> list[Markup]:
        """``shown``: a value of the horizontal axis as its text."""
        rule = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        body = []
        for tick in self.y_ticks:
            y = _n(self.y(tick))
            body.append(rule.format("rule", _LEFT, y, WIDTH - _RIGHT, y))
            text = f"{tick:.0%}" if percent and self.y_ticks[-1] > 0.045 else f"{tick:.1%}" if percent else number(tick)
            body.append(_text(_LEFT - 6, self.y(tick) + 4, text, anchor="end"))
        bottom = HEIGHT - _BOTTOM
        body.append(rule.format("axis", _LEFT, bottom, WIDTH - _RIGHT, bottom))
        for tick in self.x_ticks:
            text, middle = shown(tick), self.x(tick)
            fits = middle + 3.2 * len(text) < WIDTH  # half of its width
            body.append(_text(middle if fits else WIDTH, bottom + 15, text, anchor="middle" if fits else "end"))
        if x_label:
            body.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, anchor="middle"))
        if y_label:
            body.append(_text(2, 10, y_label))
        return body


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About ``wanted`` round numbers whose range holds ``low`` and ``high``."""
    if high <= low:
        low, high = (min(low, 0.0), max(low, 0.0)) if low else (0.0, 1.0)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def _svg(title: str, summary: str, body: Sequence[Markup], height: float = HEIGHT) -> Markup:
    name = f"chart-{next(_numbers)}"
    return Markup(
        '<svg class="chart" role="img" aria-labelledby="{}-t {}-d" viewBox="0 0 {} {}">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{}</svg>'
    ).format(name, name, WIDTH, _n(height), name, title, name, summary, Markup("").join(body))


def _text(x: float, y: float, text: str, anchor: str = "start", full: str | None = None) -> Markup:
    hint = Markup("<title>{}</title>").format(full) if full is not None and full != text else Markup()
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}{}</text>').format(_n(x), _n(y), anchor, text, hint)


def _legend(names: Sequence[tuple[str, Colour | None]]) -> Markup:
    swatch = Markup(
        '<li><svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect {} width="10" height="10"/></svg>'
    )
    items = [
        swatch.format(_fill(index, colour)) + Markup("<bdi>{}</bdi></li>").format(name)
        for index, (name, colour) in enumerate(names)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def legend(colours: Mapping[str, Colour]) -> Markup:
    """The colours of classes, with their names."""
    return _legend(list(colours.items()))


def _fill(index: int, colour: Colour | None) -> Markup:
    if colour is None:
        return Markup('class="s{}"').format(index % _SERIES)
    red, green, blue = (int(value) for value in colour)
    return Markup('class="own" fill="rgb({},{},{})"').format(red, green, blue)


def _short(name: str) -> str:
    return name if len(name) <= _LABEL_CHARS else name[: _LABEL_CHARS - 1] + "…"


def _normal(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [value / total for value in counts]


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
