"""The language of a text: told where it can be, null where it cannot."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.text.language import language_name, language_of
from pipeline.text.task import TextSegmentation

#: The first sentence of the Universal Declaration of Human Rights, or its beginning.
TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_languages_are_told(language: str) -> None:
    text = TEXTS[language] * 2
    assert language_of(text) == language
    assert language_of(text.lower()) == language
    assert language_of(text * 2000) == language


@pytest.mark.parametrize("text", ["", "ok", "12:30 45.7 -- " * 100, "!?" * 500, "\U0001f600" * 300])
def test_what_is_no_language_has_none(text: str) -> None:
    assert language_of(text) is None


@given(st.text())
def test_any_text_has_a_code_or_none(text: str) -> None:
    found = language_of(text)
    assert found is None or found == found.lower()
    assert found is None or 2 <= len(found) <= 3


def test_time_does_not_grow_with_the_text() -> None:
    language_of(TEXTS["de"])
    started = time.perf_counter()
    assert language_of(TEXTS["de"] * 400_000) == "de"
    assert time.perf_counter() - started < 2


def test_documents_in_other_languages_are_unusual() -> None:
    rows = pa.table({"language": ["en", "de", None, "de"]})
    assert TextSegmentation(languages=("en-GB",)).unusual(rows) == ["language de", "language de"]
    assert TextSegmentation().unusual(rows) == []
    found = TextSegmentation(languages=("en",)).unusual_text("language de")
    assert found == "are in German (de); the model was trained on English (en)"
    assert language_name("wuu") == "wuu"
    with pytest.raises(RequestError, match="languages must be codes of languages"):
        TextSegmentation(languages=("English",))
