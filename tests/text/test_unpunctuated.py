"""Text without punctuation: where sentences may begin, and what stays as it is."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import unpunctuated
from pipeline.text.inputs import split_sentences
from pipeline.text.plain import without_marks
from pipeline.text.unpunctuated import chosen_gaps, gap_features, has_no_stops, word_spans

SPOKEN = (
    "well i went down to the river in the morning and there was nobody there so i sat on the old bridge for a while "
    "then the old man came along the road with his dog he said good morning to me and i said good morning to him "
    "did you see the boat he asked me i had not seen any boat at all that day he went on to the mill and i walked home "
    "in the evening my sister told me that the boat was found near the sea nobody knew who had taken it so far away "
)
WORDS = st.sampled_from(["so", "i", "the", "river", "don't", "ฝน", "雨", "é\u0301", "\u0301x", "ខ", "x" * 40, "2"])


def test_sentences_begin_between_words() -> None:
    found = split_sentences(SPOKEN * 3)
    assert len(found) > 20
    assert np.diff(found, axis=1).max() < 60 * 12
    begins = {SPOKEN[start : start + 14] for start, _ in found if start < len(SPOKEN)}
    assert begins & {"he said good mo", "then the old m", "in the evening"}


def test_ordinary_text_stays_as_it_is() -> None:
    short = "It rained, and nobody came. " * 40
    long = "which went on, for all I know, until the evening came, " * 40
    assert len(split_sentences(short)) == 40
    assert len(split_sentences(long)) == 2, "cut only at 2,000 characters"
    assert not has_no_stops(long, 0, len(long))
    mixed = split_sentences(short + SPOKEN * 3 + ". " + short)[:, 0]
    assert (mixed < len(short)).sum() == 40
    assert (mixed > len(short) + 3 * len(SPOKEN)).sum() == 40


def test_lines_and_cues_begin_sentences() -> None:
    chat = "\n".join(f"{name} are we going to the river tomorrow or not" for name in "abcdefghijkl" * 3)
    found = set(split_sentences(chat)[:, 0].tolist())
    assert found >= {place + 1 for place, letter in enumerate(chat) if letter == "\n"}
    cues = [14, 117]
    assert set(cues) <= set(split_sentences(SPOKEN * 2, 2000, cues)[:, 0].tolist())
    assert len(split_sentences("It rained. " * 60, 2000, cues)) == 60


def test_scripts_without_spaces_between_words() -> None:
    assert len(split_sentences("ភ្លៀងធ្លាក់ខ្លាំង " * 60)) == 60
    assert len(split_sentences("雨が降っている " * 80)) == 80


def test_features_do_not_depend_on_where_chunks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SPOKEN * 5
    whole = split_sentences(text)
    monkeypatch.setattr(unpunctuated, "_CHUNK_WORDS", 7)
    np.testing.assert_array_equal(split_sentences(text), whole)


GOLDEN = [195220, 234835, 230787, 226136]


def test_features_are_the_same_everywhere() -> None:
    """Values of 2026: the weights in the wheel rely on them."""
    codes = np.frombuffer("don’t go home".encode("utf-32-le"), np.uint32)
    found = gap_features(codes, word_spans("don’t go home"), 1 << 18)
    straight = np.frombuffer("don't go home".encode("utf-32-le"), np.uint32)
    np.testing.assert_array_equal(found, gap_features(straight, word_spans("don't go home"), 1 << 18))
    assert found[1, :4].tolist() == GOLDEN


def test_gaps_are_chosen_one_at_least_for_so_many_words() -> None:
    scores = np.array([-9, 3, 2, -9, 1, 1, -9.0])
    assert chosen_gaps(scores, 0).tolist() == [1, 5], "no two neighbours"
    quiet = np.full(150, -5.0)
    quiet[[70, 149]] = -4
    assert chosen_gaps(quiet, 0).tolist() == [0, 70, 149]


@given(st.lists(WORDS, max_size=300), st.sampled_from([" ", "\n", "  ", "\u3000"]), st.sampled_from([16, 2000]))
def test_sentences_tile_text_without_stops(words: list[str], space: str, max_chars: int) -> None:
    text = space.join(words)
    found = split_sentences(text, max_chars)
    assert "".join(text[start:end] for start, end in found) == text
    assert (np.diff(found, axis=1) > 0).all()
    assert all(text[start - 1].isspace() or max_chars == 16 for start, _ in found[1:].tolist())


@given(st.lists(st.text(max_size=30), max_size=8), st.booleans())
def test_marks_are_dropped_and_paragraphs_stay(pieces: list[str], keep_case: bool) -> None:
    text, spans = "\n".join(pieces), []
    for piece in pieces:
        start = spans[-1][1] + 1 if spans else 0
        spans.append((start, start + len(piece)))
    plain, moved = without_marks(text, spans, keep_case=keep_case)
    assert plain == " ".join(plain[start:end] for start, end in moved)
    assert all(start < end for start, end in moved)
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(moved))


def test_apostrophes_and_hyphens_inside_words_stay() -> None:
    text = '"Don’t go--it is well-known," he said.\n* * *\n"Yes!"'
    plain, spans = without_marks(text, [(0, 38), (39, 44), (45, 51)])
    assert plain == "don’t go it is well-known he said yes"
    assert [plain[start:end] for start, end in spans] == ["don’t go it is well-known he said", "yes"]


@pytest.mark.parametrize(
    "text", ["a " * 500_000, "a\n" * 300_000, "ก " * 300_000, "x" * 600_000, "é\u0301 " * 200_000, "a" * 399 + ". " * 2]
)
def test_time_grows_with_the_text(text: str) -> None:
    started = time.perf_counter()
    split_sentences(text)
    assert time.perf_counter() - started < 20
