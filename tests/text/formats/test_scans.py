"""PDF files whose pages are pictures: read with OCR on request, and only where a page has no text of its own."""

from __future__ import annotations

import importlib.util
import signal
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.distributed.places import PackageMissing
from pipeline.distributed.stages import Preparing
from pipeline.errors import InputError
from pipeline.text.formats import readers, scans
from pipeline.text.formats.reader_process import ReaderProcess
from pipeline.text.formats.readers import WITH_OCR
from pipeline.text.formats.scans import lines_of_boxes
from pipeline.text.reading import read_document
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.task import TextSegmentation
from testing import document_files
from tests.text.formats.test_reader_process import ENDLESS

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

    margin = box(2, 10, 12, 190)
    boxes = [box(20, 20, 120, 40), box(20, 50, 120, 73), box(20, 80, 120, 99), box(20, 100, 180, 160)]
    turned = [(20.0, 118.0), (120.0, 122.0), (120.0, 142.0), (20.0, 138.0)]
    lines = lines_of_boxes([*boxes, turned, margin], ["one", " two\0 ", "three", "large", "turned", "margin"], 2, 100)
    assert [line.text for line in lines] == ["one", "two", "three", "large", "turned"]
    assert [line.size for line in lines] == [10, 10, 10, 30, 10]
    assert [(line.left, line.right) for line in lines] == [(10, 60), (10, 60), (10, 60), (10, 90), (10, 60)]
    assert [round(line.y, 1) for line in lines] == [82.2, 65.7, 52.7, 26.6, 32.2]
    assert lines_of_boxes([box(0, 0, 1, 1)], ["  "], 2, 100) == []


def test_pages_with_text_are_not_read_again_and_stamped_scans_are(scanned: bytes) -> None:
    own = document_files.pdf(["This page is printed."])
    both = read_document(document_files.joined_pdfs(own, scanned), "pdf", ocr=True).document
    assert both.format == WITH_OCR
    assert both.text.startswith("This page is printed.\n")
    assert "nobody came to the house" in both.text
    assert [number for _, number in both.pages] == [1, 2]
    stamped = document_files.scanned(document_files.pdf(PARAGRAPHS), stamp="Received by the court")
    assert read_document(stamped, "pdf").text == "Received by the court"
    found = read_document(stamped, "pdf", ocr=True).document
    assert found.format == WITH_OCR
    assert "nobody came to the house" in found.text


def test_a_page_that_cannot_be_drawn_is_one_without_text() -> None:
    text = b"BT /F 12 Tf 20 50 Td (Some words here) Tj ET"
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    data = document_files.pdf_of_objects(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R 6 0 R]/Count 2>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 99]/Resources<</Font<</F 4 0 R>>>>/Contents 5 0 R>>",
        font,
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/CropBox[500 500 600 600]>>",
    )
    assert read_document(data, "pdf", ocr=True).text == read_document(data, "pdf").text == "Some words here"


def test_each_page_has_its_own_time_and_nobody_reads_for_a_parent_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.alarm(0)  # the limit of this test
    scans._begin_page()
    assert signal.alarm(0) == 0, "where there is no limit, none is set"
    signal.alarm(5)
    scans._begin_page()
    assert signal.alarm(5) > 5
    monkeypatch.setattr(scans.os, "getppid", lambda: 0)
    with pytest.raises(SystemExit):
        scans._begin_page()
    signal.alarm(0)


def test_a_document_that_hangs_is_ended() -> None:
    child = ReaderProcess(time_limit_s=1, whole_limit_s=60)
    with pytest.raises(InputError, match="a page of this pdf file with OCR takes more than 1 seconds"):
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
    with pytest.raises(InputError, match="needs the Python package rapidocr") as caught:
        read_document(document_files.scan(), "pdf", ocr=True)
    assert caught.value.code == "no_ocr"
    work: Any = SimpleNamespace(task=tasks[0], places=SimpleNamespace(see=lambda: None))
    with pytest.raises(PackageMissing, match="needs the Python package rapidocr"):
        Preparing(work)(pa.table({}))


def test_a_block_of_scans_is_one_document() -> None:
    assert [TextSegmentation(ocr=on).block_rows for on in (False, True)] == [None, 1]
    assert SentenceReconstruction(ocr=True).block_rows == 1
