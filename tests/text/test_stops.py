"""Sentences in scripts of their own, in lists and in dialogue; any text is tiled, in time that grows with it."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.inputs import split_sentences
from pipeline.text.stops import FREE_STOPS, SPACED_STOPS
from testing.sentence_cases import cases

#: Cases of the benchmark that the rules do not get right: where they find too many sentences.
NOT_RIGHT = {("en", "pronoun"), ("zh", "quotations")}
CHARACTERS = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
STOPS = "".join(re.findall(f"[{FREE_STOPS}]", CHARACTERS))
SCRIPTS = "aZéяЖαΩაბԱաאبहিกลະកខကขབོሀ你のカ한1२٣"
MARKS = ".!?…:;-—–།༎ ་\n\r\t\u2028\u00a0«»„“\"'()•*"
TEXTS = st.text(st.sampled_from(STOPS + SCRIPTS + MARKS), max_size=150) | st.text(max_size=150)


@pytest.mark.parametrize(("language", "kind", "text", "starts"), cases())
def test_sentences_of_many_languages(language: str, kind: str, text: str, starts: list[int]) -> None:
    found = set(split_sentences(text)[1:, 0].tolist())
    assert set(starts) <= found, "a sentence that is not found can begin no paragraph"
    assert found == set(starts) or (language, kind) in NOT_RIGHT


def test_the_stops_are_those_of_unicode() -> None:
    assert set(regex.findall(r"\p{Sentence_Terminal}", CHARACTERS)) <= {*STOPS, *SPACED_STOPS}


@given(TEXTS, st.sampled_from([16, 2000]))
def test_sentences_tile_any_script(text: str, max_chars: int) -> None:
    found = split_sentences(text, max_chars)
    assert "".join(text[start:end] for start, end in found) == text
    assert (np.diff(found, axis=1) > 0).all()


@pytest.mark.parametrize(
    "text",
    [
        "།" * 300_000 + "x",
        "། " * 150_000,
        "ก " * 150_000,
        'ก "' * 100_000,
        "。" * 300_000,
        "។ល។" * 100_000,
        ". " * 150_000,
        '."' * 150_000,
        ": " * 150_000,
        "—" * 300_000,
        "— " * 150_000,
        "\n" + " " * 300_000 + "x",
        "\n-" * 150_000,
        "\n(" * 150_000,
        "1) " * 100_000,
        "(" * 150_000 + "1) " * 50_000,
        "• " * 150_000,
        "a. " * 100_000,
        "i" * 300_000 + ". x",
        "\niv" * 100_000,
        ";\u00a0" * 150_000,
    ],
)
def test_time_grows_with_the_text(text: str) -> None:
    started = time.perf_counter()
    split_sentences(text)
    assert time.perf_counter() - started < 10
