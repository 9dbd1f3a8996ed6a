"""HTML pages for people: one file with the pictures inside, which needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline import storage

_PAGE = jinja2.Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1d2733; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .25rem .7rem; border-bottom: 1px solid #d9dee4;
  text-align: left; vertical-align: top; overflow-wrap: anywhere } td.number { text-align: right }
figure { display: inline-block; margin: .4rem .6rem .4rem 0; vertical-align: top; max-width: 100% }
figure img { image-rendering: pixelated; max-width: 22rem; width: 100%; border: 1px solid #d9dee4 }
figcaption { font-size: .8rem; color: #5b6774; max-width: 22rem; overflow-wrap: anywhere }
.document { max-width: 48rem; background: #f6f7f9; padding: 1rem 1.2rem; overflow-wrap: anywhere }
</style></head><body><h1>{{ title }}</h1>
{% for heading, body in sections %}<h2>{{ heading }}</h2>
{{ body }}
{% endfor %}</body></html>
"""
)


class Page:
    """A page under construction: sections with tables, pictures and text."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._sections: list[tuple[str, str]] = []

    def text(self, heading: str, text: str) -> None:
        self._sections.append((heading, f"<p>{html.escape(text)}</p>"))

    def markup(self, heading: str, markup: str) -> None:
        """Add HTML. The caller must have escaped all text in it."""
        self._sections.append((heading, markup))

    def table(self, heading: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a table of rows with the same keys; numbers are aligned to the right."""
        if not rows:
            return
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
        body = "".join("<tr>" + "".join(_cell(value) for value in row.values()) + "</tr>" for row in rows)
        self._sections.append((heading, f"<table><tr>{head}</tr>{body}</table>"))

    def pictures(self, heading: str, pictures: Sequence[tuple[str, np.ndarray | bytes]]) -> None:
        """Add pictures with captions: uint8 arrays (h, w, 3), or the bytes of an image file that browsers show."""
        figures = [
            f'<figure><img alt="" src="{_data_uri(picture)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
            for caption, picture in pictures
        ]
        self._sections.append((heading, "\n".join(figures)))

    def write(self, uri: str) -> str:
        """Write the page to ``uri``; returns its canonical URI."""
        sections = [(heading, Markup(body)) for heading, body in self._sections]
        storage.write(uri, _PAGE.render(title=self._title, sections=sections).encode("utf-8", "replace"))
        return storage.canonical(uri)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        return f"<td>{html.escape('' if value is None else str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f'<td class="number">{text}</td>'


def _data_uri(picture: np.ndarray | bytes) -> str:
    if isinstance(picture, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        picture = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
