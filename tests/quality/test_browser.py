"""Pages in a browser: how fast they open, whether everybody can use them, and what their script does.

It needs the extra ``browser``, and Chromium (``apt-get install chromium``).
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.quality.report import run_report
from testing.reports import synthetic_run

pytestmark = pytest.mark.heavy
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROWS, LARGEST_BYTES, SLOWEST_S = 10_000, 8 << 20, 2.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the extra 'browser' has it")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The page of a run of 10,000 images after another one."""
    place = tmp_path_factory.mktemp("browser")
    run_report(*synthetic_run(place, 500))
    run, summary = synthetic_run(place, ROWS, seed=1, shift=0.2, names=("<img src=x onerror=alert(1)>.jpg",))
    started = time.monotonic()
    page = Path(run_report(run, summary))
    assert time.monotonic() - started < 20
    return page, summary


class Opened:
    """A page in a browser, with what it has written to the console."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._request)
        started = time.monotonic()
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")
        self.seconds = time.monotonic() - started

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.problems.append(f"asks for {request.url}")

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def test_the_page_of_many_images_is_small_opens_at_once_and_has_the_numbers(browser: Any, report: Any) -> None:
    path, summary = report
    assert path.stat().st_size < LARGEST_BYTES
    with Opened(browser, path) as opened:
        assert opened.seconds < SLOWEST_S
        tiles = dict(
            opened.page.eval_on_selector_all(
                ".tiles > div",
                "found => found.map(item => [...item.children].slice(0, 2).map(part => part.textContent))",
            )
        )
        assert tiles["Done"] == f"{summary['done']:,}"
        assert tiles["Failed"] == f"{summary['failed']:,}"
        assert tiles["Listed"] == f"{summary['listed']:,}"
        broken = "found => found.filter(image => image.complete && !image.naturalWidth).length"
        assert opened.page.eval_on_selector_all("img", broken) == 0
        assert opened.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_use_it(browser: Any, report: Any, scheme: str, width: int) -> None:
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core-python is not installed: the extra 'browser' has it")
    axe = (Path(found.origin).parent / "axe.min.js").read_text()
    with Opened(browser, report[0], color_scheme=scheme, viewport={"width": width, "height": 800}) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.page.evaluate(axe)
        violations = opened.page.evaluate("axe.run(document)")["violations"]
        assert [(item["impact"], item["id"]) for item in violations if item["impact"] in ("serious", "critical")] == []


def test_the_script_filters_slides_and_enlarges_by_keyboard_alone(browser: Any, report: Any) -> None:
    with Opened(browser, report[0]) as opened:
        page = opened.page
        cards = page.locator("[data-filter=images]").first.locator(".card")
        field = page.get_by_label("Filter by name or class").first
        everything = cards.count()
        name = cards.first.locator(".name").text_content()
        field.fill(name)
        assert cards.locator("visible=true").locator(".frame").count() == 1
        field.fill("no such class")
        assert page.locator("[data-filter=images]").first.locator(".card:visible").count() == 0
        field.fill("")
        assert page.locator("[data-filter=images]").first.locator(".card:visible").count() == everything
        slider = cards.first.locator("input[type=range]")
        slider.focus()
        slider.press("ArrowRight")
        assert cards.first.locator(".frame").evaluate("found => found.style.getPropertyValue('--cut')") == "51%"
        cards.first.locator("button.zoom").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("dialog[open] .card").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert opened.problems == []


def test_without_a_script_everything_is_there_and_nothing_is_dead(browser: Any, report: Any) -> None:
    with Opened(browser, report[0], java_script_enabled=False) as opened:
        page = opened.page
        assert page.locator("button, input").count() == 0
        first = page.locator(".compare").first.locator("img")
        assert first.count() == 2
        left, right = (first.nth(index).bounding_box() for index in range(2))
        assert left["x"] + left["width"] <= right["x"]
