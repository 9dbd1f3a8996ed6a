"""Pages: what they show, and that what they show is escaped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.quality.pages import Page


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
