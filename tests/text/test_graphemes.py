"""No cut is inside of a character as readers see it, between CR and LF, or before white space."""

from __future__ import annotations

import time

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text.features import sentence_features
from pipeline.text.graphemes import last_boundary
from pipeline.text.inputs import blank_line_paragraphs, split_sentences, with_less_space

#: Characters of several code points: what UAX #29 has rules for.
CLUSTERS = {
    "CR LF": "\r\n",
    "accent": "e\u0301",
    "two accents": "o\u0323\u0302",
    "Thai vowel AM": "ก\u0e33",
    "Thai vowel and tone": "ก\u0e34\u0e48",
    "Khmer, a consonant below": "ស\u17d2ត",
    "Devanagari conjunct": "क\u094dष",
    "Devanagari vowel": "न\u093f",
    "Tamil vowel in two parts": "க\u0bca",
    "Hangul of three parts": "\u1112\u1161\u11ab",
    "Hangul syllable and final": "\uac00\u11a8",
    "family": "👩\u200d👩\u200d👧",
    "skin": "👍🏽",
    "flag": "🇩🇪",
    "flag of tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "keycap": "1\ufe0f\u20e3",
    "Arabic number sign": "\u0600\u0661",
    "a form of a stop": "。\ufe00",
}
_MARKS = "\u0301\u200d\ufe0f\u0e33\u094d\u1161\u11ab"
_PIECES = (
    *CLUSTERS.values(),
    *_MARKS,
    "a",
    "B",
    " ",
    "  ",
    ". ",
    "! ",
    "。",
    "\n",
    "\r\n",
    "🇩",
    "👩",
    "क",
    "\u1100",
    "\u0600",
)
TEXTS = st.text("aB .!?\n\r\t。」:-\x1c\u3000\u2029", max_size=120) | st.lists(
    st.sampled_from(_PIECES), max_size=120
).map("".join)


def boundaries(text: str) -> set[int]:
    """Where clusters end, by the library, from the whole text.

    The library joins a consonant with a virama before it, whatever the virama is on. By the standard (GB9c) that must
    be a consonant, too, so there is a boundary behind a virama on white space or on a full stop.
    """
    joined = (found.end(1) for found in regex.finditer(r"(?:^|[^\p{L}\p{M}])(\p{M}+)\p{L}", text))
    return {found.end() for found in regex.finditer(r"\X", text)} | set(joined)


def longest(text: str) -> int:
    return max((len(found[0]) for found in regex.finditer(r"\X", text)), default=0)


@given(TEXTS, st.sampled_from([16, 40, 2000]))
@example("x" * 39 + "\r\n" + "y" * 40, 40)
@example("e" + "\u0301" * 200, 16)
@example("🇩🇪" * 60, 16)
@example("a" + " " * 100 + "b", 16)
@example("Is it? \u0301a", 16)
@example(". \u094d\u0915", 16)
@example("\r\n" * 5 + "👩\u200d👩\u200d👧\r\n\u0301", 16)
def test_cuts_are_between_clusters(text: str, max_chars: int) -> None:
    spans = split_sentences(text, max_chars)
    assert "".join(text[start:end] for start, end in spans) == text
    assert (np.diff(spans, axis=1) > 0).all()
    allowed, is_hostile = boundaries(text), longest(text) > max_chars
    for start, _ in spans[1:].tolist():
        assert start in allowed or is_hostile, f"{start} is inside of a character"
        assert text[start - 1 : start + 1] != "\r\n"
        marked = text[start + 1 : start + 2]
        assert not text[start].isspace() or regex.match(r"\p{GCB=Extend}|\p{GCB=SpacingMark}|\p{GCB=ZWJ}", marked)
        assert is_hostile or not regex.match(r"\p{GCB=Extend}|\p{GCB=SpacingMark}|\p{GCB=ZWJ}", text[start])
    for start, end in spans.tolist():
        assert len(text[start:end].rstrip()) <= 2 * max_chars
        assert end - start <= max_chars or text[end - 1].isspace() or is_hostile or _ends_with_marked_space(text[:end])


def _ends_with_marked_space(text: str) -> bool:
    """Also a mark behind a line break, which is a cluster of its own."""
    return regex.search(r"\s[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]*$", text) is not None


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("before", range(9))
def test_no_character_is_cut(name: str, before: int) -> None:
    """Long texts of one character, without a stop and without white space, cut wherever the limit falls."""
    text = "x" * before + CLUSTERS[name] * 40
    starts = split_sentences(text, 16)[1:, 0].tolist()
    assert set(starts) <= boundaries(text)
    assert {(start - before) % len(CLUSTERS[name]) for start in starts if start > before} <= {0}
    assert "\r\n" in text or len(starts) >= len(text) // 17


def test_ordinary_long_text_is_cut_after_its_last_white_space() -> None:
    text = "word " * 10
    assert split_sentences(text, 16).tolist() == [[0, 15], [15, 30], [30, 45], [45, 50]]
    assert split_sentences("a" * 40, 16).tolist() == [[0, 16], [16, 32], [32, 40]]


def test_white_space_belongs_to_the_sentence_before() -> None:
    assert split_sentences("a" * 16 + " bc", 16).tolist() == [[0, 17], [17, 19]]
    assert split_sentences("aaaa bbbb cccc   dddd", 16).tolist() == [[0, 17], [17, 21]]
    assert split_sentences("aaaa bbbb ccccdd eeee", 16).tolist() == [[0, 10], [10, 21]], (
        "a word is not cut off from its white space"
    )
    assert split_sentences("a" + " " * 100 + "b", 16).tolist() == [[0, 101], [101, 102]]
    assert split_sentences(" " * 40 + "b" * 10, 16).tolist() == [[0, 40], [40, 50]]


def test_a_cluster_without_end_is_cut_at_the_limit() -> None:
    text = "e" + "\u0301" * 39 + "abc"
    assert split_sentences(text, 16).tolist() == [[0, 16], [16, 32], [32, 43]]
    assert last_boundary("e" + "\u0301" * 39, 0, 16) is None


def test_cr_lf_is_one_end_of_a_line() -> None:
    text = "One line\r\nruns on.\r\n\r\nNext\r\nline"
    assert blank_line_paragraphs(text) == [(0, 18), (22, 32)]
    assert [text[start:end] for start, end in split_sentences(text)] == ["One line\r\nruns on.\r\n\r\n", "Next\r\nline"]
    same = text.replace("\r\n", "\n")
    assert len(split_sentences(same)) == len(split_sentences(text))
    assert len(blank_line_paragraphs("One\r\rTwo\n\nThree\r\n\r\nFour\n\rFive")) == 5


def test_a_form_of_a_stop_stays_with_it() -> None:
    text = "一。\ufe00二！\ufe01 三"
    assert [text[start:end] for start, end in split_sentences(text)] == ["一。\ufe00", "二！\ufe01 ", "三"]


@pytest.mark.parametrize(
    "text",
    ["e" + "\u0301" * 400_000, "🇩" * 400_000, "👩\u200d" * 200_000, "a" + " " * 400_000 + "b", " \u0301" * 200_000,
     "\u0600" * 400_000, "क\u094d" * 200_000, "\u1100" * 400_000, ". \u0301" * 130_000],
)  # fmt: skip
@pytest.mark.parametrize("max_chars", [16, 2000, 131072])
def test_time_grows_with_the_text(text: str, max_chars: int) -> None:
    """The library alone takes half a minute for the flags, since it looks back to the first of them each time."""
    started = time.perf_counter()
    split_sentences(text, max_chars)
    assert time.perf_counter() - started < 25


def test_features_see_less_of_long_white_space() -> None:
    text = "One" + " " * 100 + "two. Three" + "\n" * 200 + "four."
    sentences = split_sentences(text, 16)
    shorter, moved = with_less_space(text, sentences, 16)
    assert len(shorter) < 60
    assert [shorter[start:end].strip() for start, end in moved] == ["One", "two.", "Three", "four."]
    assert "".join(shorter[start:end] for start, end in moved) == shorter
    found = sentence_features(shorter, moved, 50, see_breaks=True)
    whole = sentence_features(text, sentences, 50, see_breaks=True)
    np.testing.assert_array_equal(found.content, whole.content)
    np.testing.assert_array_equal(found.frame, whole.frame)


@given(TEXTS)
def test_ordinary_sentences_keep_their_white_space(text: str) -> None:
    sentences = split_sentences(text)
    same, spans = with_less_space(text, sentences, 2000)
    assert same is text
    assert spans is sentences
