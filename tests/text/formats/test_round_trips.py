"""What is written in a format is read from it again: text, blocks, times; and sentences tile it exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.evidence import sentence_columns, sentences_of
from pipeline.text.formats.document import Document
from pipeline.text.reading import read_document
from testing import document_files

WEIGHTS = {"pauses": 1.0, "layout": 1.0}
#: Any character that XML and HTML can hold: no control characters, no half surrogates, no non-characters.
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Cn"])
SCRIPTS = [
    "Ein Satz. Noch einer!",
    "東京です。終わり。",
    "שלום עולם. סוף.",
    "नमस्ते दुनिया। अंत।",
    "é̂ 👩‍👩‍👧 x",
    "a < b & c > d",
]
TEXTS = st.text(CHARACTERS, max_size=40) | st.sampled_from(SCRIPTS)


def words(text: str) -> str:
    return " ".join(text.split())


def check_tiling(document: Document) -> None:
    """Sentences tile the text, and every break lies inside and at the beginning of what is no white space."""
    sentences, _ = sentences_of(document, 2000, WEIGHTS)
    assert sentences[0, 0] == 0
    assert sentences[-1, 1] == len(document.text)
    assert (sentences[1:, 0] == sentences[:-1, 1]).all()
    assert (sentences[:, 0] < sentences[:, 1]).all()
    assert len(document.breaks) == len(document.evidence)
    assert all(0 < one < len(document.text) for one in document.breaks)
    assert (np.diff([0, *document.breaks]) > 0).all()
    columns = sentence_columns(document, sentences, WEIGHTS, with_breaks=True)
    assert all(values is None or len(values) == len(sentences) for values in columns.values())


@pytest.mark.parametrize("ending", [".html", ".docx", ".epub"])
@given(paragraphs=st.lists(TEXTS, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_blocks_come_back(ending: str, paragraphs: list[str]) -> None:
    expected = [words(item) for item in paragraphs if words(item)]
    if not expected:
        return
    found = read_document(document_files.WITH_PARAGRAPHS[ending](paragraphs), "object")
    blocks = [words(found.text[a:b]) for a, b in itertools.pairwise([0, *found.document.breaks, len(found.text)])]
    assert blocks == expected
    assert [words(found.text[a:b]) for a, b in found.known_paragraphs()] == expected
    check_tiling(found.document)


@pytest.mark.parametrize("ending", [".srt", ".vtt", ".json"])
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=6),
    pauses=st.lists(st.integers(0, 9000), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_cues_come_back(ending: str, texts: list[str], pauses: list[int]) -> None:
    if ending == ".srt":  # its text has no escapes: what looks like markup, a number or an arrow is none of the text
        texts = [text.replace("<", "").replace("{", "") for text in texts]
        texts = ["word" if text.strip().isdigit() or "-->" in text else text for text in texts]
    ends = np.cumsum(pauses[: len(texts)]) / 1000 + np.arange(1, len(texts) + 1)
    cues = [(float(end) - 1, float(end), text) for end, text in zip(ends, texts, strict=True)]
    expected = [(*times, words(text)) for *times, text in cues if words(text)]
    if not expected:
        return
    document = read_document(document_files.WITH_CUES[ending](cues), ending_format(ending)).document
    assert document.text == " ".join(text for _, _, text in expected)
    assert [cue[1:] for cue in document.cues] == [pytest.approx(cue[:2], abs=1e-3) for cue in expected]
    check_tiling(document)


@given(
    st.lists(
        st.lists(st.text("abcdefghijklmnopqrstuvwxyzäöüéß,;", min_size=1, max_size=14), min_size=1, max_size=40),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 2),
)
@settings(max_examples=15, deadline=None)
def test_words_of_a_pdf_come_back(paragraphs: list[list[str]], columns: int) -> None:
    texts = [" ".join(item) for item in paragraphs]
    document = read_document(document_files.pdf(texts, columns=columns), "pdf").document
    assert words(document.text) == " ".join(texts)
    check_tiling(document)


@given(st.lists(st.text("abc *_`#>-+1.[]()!\\~|\n", max_size=30), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_markdown_of_any_marks_is_tiled(paragraphs: list[str]) -> None:
    document = read_document(document_files.markdown(["word", *paragraphs]), "markdown").document
    assert document.text.startswith("word")
    check_tiling(document)


def ending_format(ending: str) -> str:
    return {".srt": "srt", ".vtt": "vtt", ".json": "whisper"}[ending]
