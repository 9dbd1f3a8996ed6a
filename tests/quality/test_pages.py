"""Pages: what they show, that all texts stay texts, and that the page needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.quality.charts import bars
from pipeline.quality.pages import Card, Page, embedded

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "'; DROP TABLE rows; --",
    "{{ 7 * 7 }}",
    "\u202egnp.exe",
    "a\x00b\x1bc",
    "name" * 500,
    "&lt;b&gt;",
]


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def handlers(self) -> list[str]:
        return [name for _, attributes in self.elements for name in attributes if name.startswith("on")]


def test_a_page_holds_its_pictures_and_escapes_text(tmp_path: Path) -> None:
    page = Page("A <title>")
    page.text("Text", "1 < 2")
    page.table("Table", [{"name": "<b>", "value": 0.25, "count": 12345}, {"name": None, "value": 1.0, "count": 0}])
    page.table("Nothing", [])
    page.pictures("Pictures", [("a <caption>", np.zeros((2, 3, 3), np.uint8)), ("png", b"\x89PNG")])
    written = Path(page.write(str(tmp_path / "page.html"))).read_text()
    for text in ("A &lt;title&gt;", "1 &lt; 2", "&lt;b&gt;", "0.25", "12,345", "a &lt;caption&gt;"):
        assert text in written
    assert written.count("data:image/png;base64,") == 2
    assert "Nothing" not in written
    assert "http" not in written.replace("http-equiv", "")


@pytest.mark.parametrize(
    "name", HOSTILE, ids=["script", "quotes", "sql", "template", "right to left", "controls", "long", "entities"]
)
def test_texts_stay_texts_wherever_they_stand(name: str) -> None:
    page = Page(name, name)
    page.text(name, name)
    page.note(name, name, code=name)
    page.preformatted(name, name)
    page.tiles(name, [(name, name, name)])
    page.table(name, [{name: name}])
    page.charts(name, (name, bars(name, [(name, 1.0)]), name))
    page.legend(name, {name: (1, 2, 3)})
    picture = embedded(np.zeros((2, 2, 3), np.uint8))
    page.cards(name, [Card(name=name, pictures=[(name, picture), ("b", picture)], lines=[name], tags=[name])])
    page.groups(name, [(name, [Card(name=name, pictures=[("", picture)])])])
    written = page.render()
    found = Elements(written)
    assert (found.count("script"), found.count("img"), found.handlers) == (1, 3, [])
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", written)
    shown = re.sub("[\x00\x1b]", "\ufffd", name)
    assert sum(text == shown for text in found.said) >= 9


def test_only_the_script_of_the_page_may_run_and_nothing_is_loaded() -> None:
    page = Page("Title")
    page.markup("Markup", "<p>kept</p>")
    found = Elements(page.render())
    (policy,) = (attributes["content"] or "" for name, attributes in found.elements if "http-equiv" in attributes)
    script = next(text for text in found.said if text.startswith('"use strict"'))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "<p>kept</p>" in page.render()


def test_pictures_are_small_and_masks_keep_their_colours() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    photo = embedded(noise)
    assert (photo.width, photo.height) == (480, 360)
    assert photo.uri.startswith("data:image/webp")
    colours = np.array([[200, 10, 10], [10, 200, 10]], np.uint8)
    mask = embedded(colours[np.random.default_rng(0).integers(0, 2, (700, 700))])
    assert mask.uri.startswith("data:image/png")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask.uri.partition(",")[2]))))
    assert {tuple(pixel) for pixel in decoded.reshape(-1, 3).tolist()} == {(200, 10, 10), (10, 200, 10)}


def test_blocks_of_one_heading_share_a_section() -> None:
    page = Page("Title")
    for heading in ("One", "One", "Two", "One"):
        page.text(heading, "text")
    assert Elements(page.render()).count("section") == 3
