"""The language of a text, by its script or by the classifier py3langid (Lui and Baldwin 2012, langid.py)."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import regex

#: Scripts in which one language is written, or nearly only one.
_SCRIPTS = {
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Tibetan": "bo",
    "Georgian": "ka",
    "Armenian": "hy",
    "Hangul": "ko",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Oriya": "or",
    "Sinhala": "si",
}
_LETTERS = {code: regex.compile(rf"\p{{Script={script}}}") for script, code in _SCRIPTS.items()}
_LETTER = regex.compile(r"[\p{L}\p{M}]")
_KANA = regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]")
_IDEOGRAPH = regex.compile(r"\p{Script=Han}")
# Labels of the classifier that are varieties of a language, or no shortest codes.
_CODES = {"ary": "ar", "arz": "ar", "wuu": "zh", "yue": "zh", "hbo": "he", "kik": "ki"}
_NONE = "zxx"  # its label for what is no language

_LEAST_LETTERS = 20
_SHORT_PIECES, _LONG_PIECES = (3, 120), (3, 1200)  # number and characters of the samples of a text
_SURE, _LIKELY = 0.98, 0.85  # probabilities of the classifier: no longer sample is needed; the language can be told
_MOSTLY = 0.5  # share of the letters
_KANA_SHARE = 0.02  # of the letters of Japanese; in Chinese there is none
_SPACE = re.compile(r"\s")

#: Names of the languages that are met most, for messages.
NAMES = {
    "af": "Afrikaans",
    "am": "Amharic",
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "bo": "Tibetan",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "eo": "Esperanto",
    "es": "Spanish",
    "et": "Estonian",
    "eu": "Basque",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "ga": "Irish",
    "gu": "Gujarati",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "kk": "Kazakh",
    "km": "Khmer",
    "kn": "Kannada",
    "ko": "Korean",
    "la": "Latin",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "ml": "Malayalam",
    "mr": "Marathi",
    "ms": "Malay",
    "my": "Burmese",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "nn": "Norwegian Nynorsk",
    "pa": "Punjabi",
    "pl": "Polish",
    "ps": "Pashto",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "si": "Sinhala",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sq": "Albanian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "yo": "Yoruba",
    "zh": "Chinese",
    "zu": "Zulu",
}


def language_of(text: str) -> str | None:
    """The language in which most of a text is written, as a BCP 47 code such as ``en``; None where it cannot be told.

    Samples of the text decide: a few hundred characters, and some thousands where those are not sure. So the time does
    not grow with the text.
    """
    for number, chars in (_SHORT_PIECES, _LONG_PIECES):
        sample = _sample(text, number, chars)
        letters = len(_LETTER.findall(sample))
        if letters < _LEAST_LETTERS:
            continue
        by_script = _by_script(sample, letters)
        if by_script is not None:
            return by_script
        code, probability = _likeliest(sample)
        if probability >= _SURE or (chars == _LONG_PIECES[1] and probability >= _LIKELY):
            return None if code == _NONE else code
    return None


def language_name(code: str) -> str:
    """A language for messages, such as ``German (de)``."""
    return f"{NAMES[code]} ({code})" if code in NAMES else code


def _likeliest(sample: str) -> tuple[str, float]:
    found: Counter[str] = Counter()
    for label, probability in _classifier().rank(sample):
        assert isinstance(label, str)
        found[_CODES.get(label, label)] += probability
    return found.most_common(1)[0]


def _by_script(sample: str, letters: int) -> str | None:
    if sample.isascii():
        return None
    kana, ideographs = len(_KANA.findall(sample)), len(_IDEOGRAPH.findall(sample))
    if kana + ideographs > _MOSTLY * letters:
        return "ja" if kana > _KANA_SHARE * letters else None if kana else "zh"
    for code, of_script in _LETTERS.items():
        if of_script.search(sample) is not None and len(of_script.findall(sample)) > _MOSTLY * letters:
            return code
    return None


def _sample(text: str, number: int, chars: int) -> str:
    """Pieces from the middles of so many equal parts of a text, which begin after white space where there is some."""
    if len(text) <= number * chars:
        return text
    pieces = []
    for part in range(number):
        middle = len(text) * (2 * part + 1) // (2 * number) - chars // 2
        space = _SPACE.search(text, middle, middle + chars // 4)
        first = middle if space is None else space.end()
        pieces.append(text[first : first + chars])
    return " ".join(pieces)


@cache
def _classifier() -> Any:
    """It takes a second to load, and 120 MiB of memory."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
