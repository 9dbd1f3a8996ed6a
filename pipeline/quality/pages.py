"""HTML pages for people: one file with its pictures, style and script inside, which needs no network.

The pages are made by the templates in `templates`, which escape all texts. Only `Page.markup` takes HTML. A page is
complete without its script, which adds filters, sliders and large pictures; no other script can run in it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline import storage
from pipeline.quality import charts

#: Longest side of a picture on a card, in pixels.
CARD_PX = 480
_PICTURE_PX = 960
_SMALL_PX = 160  # up to which a picture is enlarged without smoothing
_FEW_COLOURS = 256
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline.quality"), autoescape=True, undefined=jinja2.StrictUndefined
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside of a page."""

    uri: str
    """A ``data:`` URI."""
    width: int | None = None
    height: int | None = None

    @property
    def is_small(self) -> bool:
        return self.width is not None and self.height is not None and max(self.width, self.height) <= _SMALL_PX


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture with its name. With two pictures of the same size a slider shows the one or the other."""

    name: str
    pictures: Sequence[tuple[str, Picture]]
    """Pictures with what they show, such as ``image`` and ``mask``."""
    lines: Sequence[str] = ()
    """What else stands below the picture."""
    tags: Sequence[str] = ()
    """Words by which the filter finds the card, besides its texts."""
    is_wide: bool = False

    @property
    def words(self) -> str:
        return " ".join([self.name, *self.lines, *self.tags])


class Page:
    """A page under construction. Blocks of one heading that follow each other share a section."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title, self._subtitle = title, subtitle
        self._sections: list[dict[str, Any]] = []

    def text(self, heading: str, text: str) -> None:
        self._add(heading, "text", text=text)

    def note(self, heading: str, text: str, *, tone: str = "", code: str = "") -> None:
        """Add a sentence that stands out. ``tone``: good, warn, bad, or nothing; ``code``: an option, say."""
        self._add(heading, "note", text=text, tone=tone, code=code)

    def markup(self, heading: str, markup: str) -> None:
        """Add HTML. The caller must have escaped all text in it."""
        self._add(heading, "markup", markup=Markup(markup))

    def preformatted(self, heading: str, text: str) -> None:
        self._add(heading, "preformatted", text=text)

    def tiles(self, heading: str, tiles: Sequence[tuple[str, str, str]]) -> None:
        """Add the figures that matter most: name, value, and a remark or nothing."""
        self._add(heading, "tiles", tiles=tiles)

    def charts(self, heading: str, *shown: tuple[str, Markup, str]) -> None:
        """Add charts of `pipeline.quality.charts`, each with a heading, and a caption or nothing."""
        self._add(heading, "charts", charts=shown)

    def legend(self, heading: str, colours: Mapping[str, Sequence[int]]) -> None:
        """Add the colours of classes: red, green, blue."""
        self._add(heading, "legend", markup=charts.legend(colours))

    def table(self, heading: str, rows: Sequence[Mapping[str, Any]], *, heat: bool = False) -> None:
        """Add a table of rows with the same keys; numbers are aligned to the right. ``heat``: numbers between 0 and 1
        have a background by their size."""
        if rows:
            cells = [[_cell(value, heat) for value in row.values()] for row in rows]
            self._add(heading, "table", head=[str(name) for name in rows[0]], rows=cells)

    def pictures(self, heading: str, pictures: Sequence[tuple[str, np.ndarray | bytes]]) -> None:
        """Add pictures with captions: uint8 arrays (h, w, 3), or the bytes of an image file that browsers show."""
        self.cards(
            heading, [Card(name=name, pictures=[("", embedded(found, _PICTURE_PX))]) for name, found in pictures]
        )

    def cards(self, heading: str, cards: Sequence[Card]) -> None:
        if cards:
            self._add(heading, "cards", cards=cards)

    def groups(self, heading: str, groups: Sequence[tuple[str, Sequence[Card]]]) -> None:
        """Add cards that belong together, in groups with names for screen readers."""
        if groups:
            self._add(heading, "groups", groups=groups)

    def write(self, uri: str) -> str:
        """Write the page to ``uri``; returns its canonical URI."""
        storage.write(uri, self.render().encode("utf-8", "replace"))
        return storage.canonical(uri)

    def render(self) -> str:
        """The page as text."""
        style, script = (Markup(_source(name)) for name in ("page.css", "page.js"))
        page = _TEMPLATES.get_template("page.html").render(
            title=self._title,
            subtitle=self._subtitle,
            sections=self._sections,
            style=style,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        return _CONTROL.sub("\ufffd", page)  # characters that HTML cannot hold

    def _add(self, heading: str, kind: str, **content: Any) -> None:
        if not self._sections or self._sections[-1]["heading"] != heading:
            self._sections.append({"heading": heading, "id": f"s{len(self._sections) + 1}", "blocks": []})
        self._sections[-1]["blocks"].append({"kind": kind, **content})


@dataclass(frozen=True, kw_only=True)
class _Cell:
    text: str
    is_number: bool = False
    heat: float | None = field(default=None)


def _cell(value: Any, heat: bool) -> _Cell:
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        return _Cell(text="" if value is None else str(value))
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    is_warm = heat and isinstance(value, float) and 0 <= value <= 1
    return _Cell(text=f"{value:.3f}" if is_warm else text, is_number=True, heat=round(value, 3) if is_warm else None)


def embedded(picture: np.ndarray | bytes, largest_px: int = CARD_PX) -> Picture:
    """A picture for a page: uint8 (h, w, 3) or (h, w), at most ``largest_px`` on each side, or an image file as it is.

    Pictures of few colours, such as masks, become PNG files, and keep their colours; others become WebP files.
    """
    if isinstance(picture, bytes):
        kind = {b"\xff\xd8": "jpeg", b"RI": "webp"}.get(picture[:2], "png")
        return Picture(uri=_data_uri(kind, picture))
    image = Image.fromarray(picture)
    has_few = image.getcolors(_FEW_COLOURS) is not None
    if max(image.size) > largest_px:
        image.thumbnail((largest_px, largest_px), Image.Resampling.NEAREST if has_few else Image.Resampling.BOX)
    buffer = io.BytesIO()
    if has_few:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "WEBP", quality=80, method=2)
    uri = _data_uri("png" if has_few else "webp", buffer.getvalue())
    return Picture(uri=uri, width=image.width, height=image.height)


def _source(name: str) -> str:
    assert _TEMPLATES.loader is not None
    return _TEMPLATES.loader.get_source(_TEMPLATES, name)[0]


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
