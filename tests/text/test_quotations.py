"""Quotation marks: which open and which close, and what is known of direct speech at each sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.inputs import split_sentences
from pipeline.text.quotations import QUOTATION_DENSE, QUOTATION_FRAME, Quotations, _symbols

INSIDE, SINCE, CLOSES_NEXT, UNTIL, OPENS_FIRST, CLOSES_FIRST, SURELY_INSIDE = range(7)
TEXTS = st.text("ab \"'“”‘’-—.,!()\n", min_size=1).filter(str.strip)


def features(text: str, buckets: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    spans = split_sentences(text, 40)
    return Quotations(text, spans).features(0, len(spans), buckets)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('"Yes," he said.', {0: "open", 5: "close"}),
        ('He said:--"Come in."', {10: "open", 19: "close"}),
        ('("A" and "B")', {1: "open", 3: "close", 9: "open", 11: "close"}),
        ("“Yes” and «no» and 「文」", {0: "open", 4: "close", 10: "open", 13: "close", 19: "open", 21: "close"}),
        ("'It's Tom's,' said 'Nan'.", {0: "open single", 12: "close single", 19: "open single"}),
        ("‘Don’t,’ the boys’ dog", {0: "open single", 7: "close single"}),
        ("\"'Go,' he said.\"", {0: "open", 1: "open single", 5: "close single", 15: "close"}),
        ('5" long', {1: "close"}),
        ('"', {0: "close"}),
    ],
)
def test_marks(text: str, marks: dict[int, str]) -> None:
    names = {1: "open", 2: "close", 3: "open single", 4: "close single"}
    symbols = _symbols(text)
    found = dict(zip(symbols.place.tolist(), symbols.kind.tolist(), strict=True))
    assert {place: names[kind] for place, kind in found.items() if kind in names} == marks


def test_direct_speech_by_hand() -> None:
    text = 'He rose. "I go. Now," he said. "Come." All left. "I stay.'
    sentences = ["He rose. ", '"I go. ', 'Now," he said. ', '"Come." ', "All left. ", '"I stay.']
    spans = split_sentences(text)
    assert [text[start:end] for start, end in spans] == sentences
    _, dense = features(text)
    double = dense[:, :7]
    assert double[:, INSIDE].tolist() == [0, 0, 1, 0, 0, 0]
    # The sentences since the newest mark; none is as good as fifty.
    assert double[:, SINCE] == pytest.approx(np.log1p([50, 50, 1, 1, 1, 2]) / 4)
    assert double[:, CLOSES_NEXT].tolist() == [0, 1, 0, 0, 0, 0]
    assert double[:, UNTIL] == pytest.approx(np.log1p([1, 1, 1, 2, 1, 50]) / 4)
    assert double[:, OPENS_FIRST].tolist() == [0, 1, 0, 1, 0, 1]
    assert double[:, CLOSES_FIRST].tolist() == [0, 0, 1, 0, 0, 0]
    assert double[:, SURELY_INSIDE].tolist() == [0, 0, 0, 0, 0, 0]  # what follows "Now" opens
    assert not dense[:, [7 + INSIDE, 7 + OPENS_FIRST, 7 + SURELY_INSIDE]].any()
    _, dense = features('"I go. I must. Now," he said.')
    assert dense[:, SURELY_INSIDE].tolist() == [0, 1, 0]


def test_marks_may_be_straight_or_not() -> None:
    text = '"You go?" "I do," said he; "if I may." \'Well,\' he went on, "so be it."'
    curled = text
    for opening in ('"Y', '"I', '"i', '"s'):
        curled = curled.replace(opening, opening.replace('"', "“"))
    curled = curled.replace('"', "”").replace("'W", "‘W").replace(",'", ",’")
    assert not set(curled) & set("\"'")
    for straight, other in zip(features(text), features(curled), strict=True):
        assert np.array_equal(straight, other)


def test_what_stands_before_and_after_is_seen() -> None:
    base, _ = features("One. Two, three. Four.")
    for other in ('One." Two, three. Four.', "One. Two, three. Four.".replace("Two", '"Two')):
        changed, _ = features(other)
        assert (changed[1] != base[1]).any()


@given(TEXTS)
def test_any_text(text: str) -> None:
    spans = split_sentences(text, 40)
    frame, dense = features(text, buckets=50)
    assert frame.shape == (len(spans), QUOTATION_FRAME)
    assert dense.shape == (len(spans), QUOTATION_DENSE)
    assert ((frame >= 1) & (frame < 50)).all()
    assert ((dense >= 0) & (dense <= 1)).all()


@given(TEXTS, st.integers(1, 9), st.integers(1, 4))
def test_parts_are_invisible(text: str, chunk: int, size: int) -> None:
    whole, spans = features(text), split_sentences(text, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.text.quotations._CHUNK_CHARS", chunk)
        quotations = Quotations(text, spans)
        starts = range(0, len(spans), size)
        parts = [quotations.features(start, min(len(spans), start + size), 65536) for start in starts]
    for one, others in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(one, np.concatenate(others))
