"""PDF files whose pages are pictures: read with OCR on request, and only where a page has no text of its own."""

from __future__ import annotations

import importlib.util

import pytest

from pipeline.errors import InputError
from pipeline.text.formats import readers
from pipeline.text.formats.reader_process import ReaderProcess
from pipeline.text.formats.readers import WITH_OCR
from pipeline.text.formats.scans import lines_of_boxes
from pipeline.text.reading import read_document
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.task import TextSegmentation
from testing import document_files

PARAGRAPHS = [
    "The day began early, and it was warm. Nobody spoke of it again, and nobody came to the house on the hill "
    "before the evening.",
    "Two men went down to the river. They carried a boat, a lamp and a long rope between them, and they did not speak "
    "on the way.",
]


@pytest.fixture(scope="module")
def scanned() -> bytes:
    return document_files.scanned(document_files.pdf(PARAGRAPHS))


def test_a_scan_is_read_on_request_with_its_layout(scanned: bytes) -> None:
    with pytest.raises(InputError, match="with --ocr only") as caught:
        read_document(scanned, "pdf")
    assert caught.value.code == "no_text"
    printed, found = (
        read_document(data, "pdf", ocr=True).document for data in (document_files.pdf(PARAGRAPHS), scanned)
    )
    assert (printed.format, found.format) == ("pdf", WITH_OCR)
    assert found.text == printed.text
    assert list(found.breaks) == list(printed.breaks)
    assert all((one > 0) == (other > 0) for one, other in zip(found.evidence, printed.evidence, strict=True))
    assert max(found.evidence) > 0 > min(found.evidence)
    assert [tuple(page) for page in found.pages] == [(0, 1)]
    with pytest.raises(InputError) as caught:
        read_document(scanned, "pdf", ocr=True).known_paragraphs()
    assert caught.value.code == "no_paragraphs"


def test_a_page_without_any_picture_of_text_has_none() -> None:
    for data in (document_files.scan(), document_files.scanned(document_files.pdf([]))):
        with pytest.raises(InputError, match="nor a picture in which OCR finds any") as caught:
            read_document(data, "pdf", ocr=True)
        assert caught.value.code == "no_text"


def test_boxes_become_lines_of_usual_size() -> None:
    """At two pixels a point on a page of 100 points: heights that differ a little are alike, and one is large."""

    def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]

    boxes = [box(20, 20, 120, 40), box(20, 50, 120, 73), box(20, 80, 120, 99), box(20, 100, 180, 160)]
    turned = [(20.0, 118.0), (120.0, 122.0), (120.0, 142.0), (20.0, 138.0)]
    lines = lines_of_boxes([*boxes, turned], ["one", " two\0 ", "three", "large", "turned"], 2, 100)
    assert [line.text for line in lines] == ["one", "two", "three", "large", "turned"]
    assert [line.size for line in lines] == [10, 10, 10, 30, 10]
    assert [(line.left, line.right) for line in lines] == [(10, 60), (10, 60), (10, 60), (10, 90), (10, 60)]
    assert [round(line.y, 1) for line in lines] == [82.2, 65.7, 52.7, 26.6, 32.2]
    assert lines_of_boxes([box(0, 0, 1, 1)], ["  "], 2, 100) == []


def test_a_hanging_page_is_ended_and_the_error_names_pages() -> None:
    from tests.text.formats.test_reader_process import ENDLESS

    child = ReaderProcess(time_limit_s=1, whole_limit_s=60)
    with pytest.raises(InputError, match="a page of this pdf file by OCR takes more than 1 seconds"):
        child.ask(ENDLESS, WITH_OCR)
    child.end()


def test_without_its_package_ocr_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = TextSegmentation(ocr=True), SentenceReconstruction(ocr=True)
    assert [task.missing() for task in (*tasks, TextSegmentation())] == [None, None, None]
    find = importlib.util.find_spec
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None if name == "rapidocr" else find(name))
    for task in tasks:
        assert "pip install 'parquetry[ocr]'" in str(task.missing())
    assert TextSegmentation().missing() is None
