"""Lines of pages, set by hand: reading order, running heads, hyphens, and the evidence of geometry."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import pypdfium2
import pytest

from pipeline.errors import InputError
from pipeline.text.formats.document import Document
from pipeline.text.formats.page_columns import Line, regions
from pipeline.text.formats.page_layout import PrintedPage, document_of_pages
from pipeline.text.reading import read_document
from testing import document_files

SIZE, PITCH = 10.0, 12.0


def line(text: str, y: float, left: float = 50.0, right: float = 450.0, size: float = SIZE) -> Line:
    return Line(text, left, right, y, size)


def page(*lines: Line, number: int = 1) -> PrintedPage:
    return PrintedPage(number, 800.0, lines)


def evidence(document: Document) -> dict[str, float]:
    """The evidence at each break, by the first word of its line."""
    places = itertools.pairwise([*document.breaks, len(document.text)])
    words = [document.text[start:end].split()[0] for start, end in places]
    return dict(zip(words, document.evidence, strict=True))


def text_of(*texts: str, y: float = 700.0) -> Sequence[Line]:
    return [line(text, y - PITCH * index) for index, text in enumerate(texts)]


def test_what_speaks_for_a_paragraph() -> None:
    document = document_of_pages(
        [
            page(
                line("Heading", 740, right=120, size=16),
                line("a full line", 700),
                line("b full line", 688),
                line("c short line", 676, right=200),
                line("d full line", 664),
                line("e full line", 640),
                line("f full line", 628, left=65),
                line("g full line", 616),
                line("• h item", 604),
            )
        ],
        form="pdf",
    )
    found = evidence(document)
    assert found["b"] == found["c"] == found["g"] < -2, "inside of a paragraph"
    assert found["a"] > 2, "after a heading"
    assert found["d"] > found["b"], "after a short line"
    assert found["e"] > found["d"], "after a gap"
    assert found["f"] > 0, "an indent"
    assert found["•"] > found["b"]


def test_hyphens_at_line_ends() -> None:
    found = document_of_pages(
        [page(*text_of("an exam-", "ple of Anglo-", "Saxon in 1990-", "95, so - -", "and soft\u00ad", "ly"))],
        form="pdf",
    )
    assert found.text == "an example of Anglo-Saxon in 1990-\n95, so - -\nand softly"
    assert [found.text[place:].split()[0] for place in found.breaks] == ["95,", "and"]


def test_two_columns_that_are_printed_row_by_row() -> None:
    rows = range(8)
    pieces = [line("The title over both columns", 740)]
    for row in rows:
        pieces += [line(f"left {row}", 700 - 12 * row, 50, 240), line(f"right {row}", 700 - 12 * row, 262, 450)]
    pieces.append(line("A note under both columns", 590))
    found = [[item.text for item in region.lines] for region in regions(pieces)]
    assert found == [
        ["The title over both columns"],
        [f"left {row}" for row in rows],
        [f"right {row}" for row in rows],
        ["A note under both columns"],
    ]


def test_cells_of_a_table_are_read_by_rows() -> None:
    pieces = []
    for row in range(5):
        pieces += [line(f"{row}a", 700 - 12 * row, 50, 80), line(f"{row}b", 700 - 12 * row, 200, 230)]
    assert [item.text for region in regions(pieces) for item in region.lines] == [f"{row}a {row}b" for row in range(5)]


def test_heads_and_page_numbers_are_left_out_where_they_repeat() -> None:
    def printed(number: int, head: str) -> PrintedPage:
        return page(line(head, 780), line(f"body of {number}", 400), line(f"{number}", 20, 240, 260), number=number)

    pages = [printed(number, "The Reference" if number % 2 else "Chapter 4") for number in range(1, 8)]
    pages.append(page(line("Only here", 780), line("body of 8", 400), line("viii", 20, 240, 260), number=8))
    document = document_of_pages(pages, form="pdf")
    assert document.text == "\n".join([*(f"body of {n}" for n in range(1, 8)), "Only here", "body of 8"])
    assert [number for _, number in document.pages] == list(range(1, 9))
    assert [document.text[place:].split("\n")[0] for place, _ in document.pages][-2:] == ["body of 7", "Only here"]


def test_no_text_is_an_error_that_says_why() -> None:
    with pytest.raises(InputError, match="it may be a scan, which is read with --ocr only"):
        document_of_pages([page()], form="pdf")


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("what", ["page", "text"])
def test_turned_pages_and_turned_text_are_read_as_they_run(turn: int, what: str) -> None:
    paragraphs = ["First words of a paragraph, which is here.", "Second words of another one.", "And the third."]
    file = pypdfium2.PdfDocument(document_files.pdf(paragraphs, turn=turn if what == "text" else 0))
    file[0].set_rotation(turn if what == "page" else 0)
    target = io.BytesIO()
    file.save(target)
    file.close()
    assert read_document(target.getvalue(), "pdf").text.split("\n") == paragraphs
