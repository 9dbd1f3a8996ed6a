"""Subwords: what is learned, and that every text comes back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.text.subwords import BEGIN, END, FIRST_PIECE, Subwords, learn_pieces


def test_the_most_frequent_pair_is_joined_first() -> None:
    # " ab" 3 times, " abc" twice: "ab" and " a" have five each, the one with the lowest bytes is first.
    assert learn_pieces(["ab ab", " ab abc abc"], 3) == (" a", " ab", " abc")


def test_pairs_that_occur_once_are_not_joined() -> None:
    assert learn_pieces(["one time"], 10) == ()


def test_a_sentence_becomes_pieces_and_its_words_are_counted() -> None:
    subwords = Subwords(("th", "the", " the"))
    assert subwords.size == FIRST_PIECE + 3
    space, letter = FIRST_PIECE - 256 + ord(" "), FIRST_PIECE - 256 + ord("x")
    assert subwords.encode("the  \n x", 9) == ([FIRST_PIECE + 2, space, letter, END], 2)
    assert subwords.encode("the x the", 3) == ([FIRST_PIECE + 2, space, letter], 2)
    assert subwords.encode("", 3) == ([END], 0)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_texts_come_back(text: str) -> None:
    ids, words = SUBWORDS.encode(text, 1000)
    assert SUBWORDS.decode(ids) == " ".join(text.split())
    assert words == len(text.split())
    assert all(BEGIN < token < SUBWORDS.size for token in ids)


SUBWORDS = Subwords(
    learn_pieces(["The quick brown fox jumps over the lazy dog, the quick one. Über 東京 東京"] * 2, 60)
)


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert SUBWORDS.decode([FIRST_PIECE - 256 + 0xFF, END, 5]) == "\N{REPLACEMENT CHARACTER}"


def test_time_is_linear_in_a_text_without_spaces() -> None:
    started = time.process_time()
    SUBWORDS.encode("東京" * 200_000, 1 << 30)
    assert time.process_time() - started < 20


@pytest.mark.parametrize("pieces", [("a",), ("ab", "ab"), ("東京",)])
def test_a_broken_vocabulary_is_refused(pieces: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="piece"):
        Subwords(pieces)
