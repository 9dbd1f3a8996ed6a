"""Where sentences begin by what is written: stops of every script, direct speech, and the lines of lists and dialogue.

The stops are the characters with the property Sentence_Terminal (Unicode 16, UAX #29), the ellipsis, and the shad of
Tibetan, which the property leaves out. Thai and Lao have no stops: there, spaces stand between sentences and clauses,
and a sentence may begin after each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Stops after which white space must follow, since they also stand in numbers, names and addresses.
SPACED_STOPS = ".!?…"
#: All other stops, after which a sentence may begin without white space, as ranges of a regular expression.
FREE_STOPS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362\u1367\u1368"
    "\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f"
    "\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f\u2024\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\u2e60\u2e61"
    "\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"
    "\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61"
    "\U00010a56\U00010a57\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047\U00011048\U000110be-\U000110c1"
    "\U00011141-\U00011143\U000111c5\U000111c6\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c"
    "\U000112a9\U000113d4\U000113d5\U0001144b\U0001144c\U000115c2\U000115c3\U000115c9-\U000115d7\U00011641\U00011642"
    "\U0001173c-\U0001173e\U00011944\U00011946\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42"
    "\U00011ef7\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44"
    "\U00016d6e\U00016d6f\U00016e98\U0001bc9f\U0001da88"
)
_SHADS = "\u0f0d-\u0f12\u0f14"
_CLOSERS = "\"'”’“‘»«›‹)\\]}*_」』）》〉】〕"
_OPENERS = "\"'“‘«"
_DASHES = ("—", "–", "―")
_ALL_OPENERS = "\"'“‘«»„‚「『《"
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A letter of Thai or Lao that a word may end or begin with; no word begins with the sign of repetition.
_THAI_END = "\u0e01-\u0e4e\u0e81-\u0edf"
_THAI_BEGIN = "\u0e01-\u0e2e\u0e40-\u0e44\u0e81-\u0eae\u0ec0-\u0ec4\u0edc-\u0edf"

# The end of a sentence in any script: a stop, optional closing marks and white space (a guillemet may stand apart, as
# in French); or a colon or dash before direct speech ('he said:-- "Come in."'; ":-" and ": -" are such dashes).
_END = re.compile(
    rf"(?<![{SPACED_STOPS}])(?P<stop>[{SPACED_STOPS}]++)(?P<closed>[{_CLOSERS}]*+(?:[ \u00a0\u202f]»(?=\s))?)\s++"
    rf"|(?:(?<=[^\s.!?…]):(?:\s?-)?|--|[—–])[{_CLOSERS}]*+\s++(?=[{_ALL_OPENERS}(\[\d]|[^\W\d_a-z])"
)
# The same in scripts of their own: a stop that is no decimal point, and no part of the Khmer "etc."; a mark of ASCII
# between ideographs; the shads of Tibetan; white space in Thai or Lao; the question mark of Greek.
_OTHER_END = re.compile(
    rf"(?P<free>(?:[{FREE_STOPS}](?<![．․﹒](?=[\d０-９]))(?<!។(?=ល។))(?<!។ល។))++)[{_CLOSERS}!?]*+\s*+"
    rf"|(?<=[{_IDEOGRAPH}])[!?]++(?=[{_IDEOGRAPH}])"
    rf"|(?P<shad>[{_SHADS}](?:\s?[{_SHADS}])*+\s*+)"
    rf"|[{_THAI_END}][{_CLOSERS}]*+\s++(?=[{_ALL_OPENERS}(]*+[{_THAI_BEGIN}])"
    r"|(?<=[\u0370-\u03ff\u1f00-\u1fff])[;\u037e]\s++(?=[^\W\d_a-z])"
)
# Latin and Cyrillic letters, and common marks: a text of nothing else needs no search for those ends.
_OTHER_SCRIPT = re.compile(
    r"[^\x00-\u036f\u0400-\u0588\u1e00-\u1eff\u2000-\u2023\u2025-\u203b\u203e-\u2046\u204a-\u2c7f]"
)
_LINE_END = r"\n\r\x85\u2028\u2029\x0b\x0c"
_BULLETS = "•‣◦⁃∙▪▫●○◆■□➢➤✓✔"
_MARK = r"(?:\d{1,3}|[a-zA-Z]|[ivxlc]{1,5}|[IVXLC]{1,5})"
# A line of a list, or of dialogue in the way of French, Spanish or Russian. In text with hard line ends "12." or "A."
# may begin a line by chance, and then a sentence more is found; "A. Smith" and a dash before a small letter are none.
_LINE = re.compile(
    rf"[{_LINE_END}][^\S{_LINE_END}]*(?=(?:[{_BULLETS}]|[-*](?=\s)|\(?{_MARK}\)\s|(?:\d{{1,3}}|[a-z]|[ivxlc]+)\.\)?\s)"
    r"|(?P<dash>[—–―]\s?)[^\W\d_a-z])"
)
# The next item of a list inside a line: a bullet, or "2)" of "1) The one 2) The other".
_BULLET = re.compile(rf"(?<=\s)[{_BULLETS}]")
_ITEM_END = re.compile(r"\)\s")
_ITEM = re.compile(r"(?<=\s)(?:\d{1,2}|[a-z])\.?\Z")
_LETTER_ITEM = re.compile(r"[a-z]{1,2}[.)]\s+[^\W\d_a-z]")
_MARK_ONLY = re.compile(rf"(?:\A|[{_LINE_END}])\s*\(?{_MARK}\Z")
_LONGEST_MARK = 12
_BRACKET_REACH = 60

_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*\Z")
_LONGEST_ABBREVIATION = 12
# Titles and other abbreviations that stand before a name or a number and almost never end a sentence.
_ABBREVIATION = re.compile(
    "mr|mrs|ms|messrs|mme|mlle|mm|dr|prof|rev|hon|st|ste|gen|col|maj|capt|lieut|lt|sgt|corp|adm|gov|sen|rep|pres|supt|"
    "bros|vs|viz|cf|e[.]g|i[.]e|approx|ca|mt|ft|"
    "bzw|ggf|evtl|bspw|sog|vgl|hr|dipl|ing|kath|inkl|zzgl|med|u[.]a|z[.]b|d[.]h|"
    "sr|sra|srta|dra|ud|uds|sig|dott|avv|dhr|mevr|drs|bijv|t[.]ex|f[.]eks|bl[.]a|np|tzn|tzw|inż|hab|św|"
    "им|ул|см|рис|проф|акад|тов|св|т[.]е",
    re.IGNORECASE,
)
# Abbreviations only before a number, since "no" and "art" are words, too.
_NUMBERED = re.compile("nos?|vols?|pp?|figs?|ch|sect?|art|nr|abb|bd|kap|стр|гл", re.IGNORECASE)
_NUMBER = re.compile(r"\d|[IVXLC]+\b")
# What follows an ordinal number of a day in German.
_AFTER_DAY = re.compile(
    r"(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert)"
)
_LETTER_AND_STOP = re.compile(r"[^\W\d_]\.")
# Georgian has letters that Python calls small, but no capitals at the beginning of sentences.
_GEORGIAN = ("\u10d0", "\u10ff")


def sentence_ends(text: str) -> Iterator[int]:
    """Where a sentence begins since one ends before, in code points, in no order. White space belongs to the sentence
    before it. The end of the text may be among the places."""
    begin = 0
    for match in _END.finditer(text):
        if _ends(text, match, begin):
            begin = match.end()
            yield begin
    if not text.isascii() and _OTHER_SCRIPT.search(text) is not None:
        yield from (match.end() for match in _OTHER_END.finditer(text) if _ends_elsewhere(text, match))


def item_starts(text: str) -> Iterator[int]:
    """Where items of a list and lines of dialogue begin, in no order. The first line of a text is none of them."""
    for match in _LINE.finditer(text):
        if match["dash"] is None or not text[match.end("dash")].islower():
            yield match.end()
    yield from (match.start() for match in _BULLET.finditer(text))
    for match in _ITEM_END.finditer(text):
        item = _ITEM.search(text, max(0, match.start() - 4), match.start())
        if item is not None and not _in_brackets(text, item.start()):
            yield item.start()


def _ends(text: str, match: re.Match[str], begin: int) -> bool:
    """Whether a match of `_END` ends a sentence that begins at ``begin``."""
    following = text[match.end() : match.end() + 1]
    is_small = following.islower() and not _GEORGIAN[0] <= following <= _GEORGIAN[1]
    stop = match["stop"]
    if stop is None:
        # A dash where a sentence begins is the mark of dialogue.
        before = text[max(begin, match.start() - _LONGEST_MARK) : match.start()].rstrip(" \t\u00a0")
        return not is_small and bool(before) and before[-1] not in "\n\r\u2028"
    if (is_small and _LETTER_ITEM.match(text, match.end()) is None) or following in ".,;:!?…)]":
        return False
    if following in _DASHES and text[match.end() + 1 : match.end() + 3].lstrip()[:1].islower():
        return False  # who speaks: "—¿Llueve? —preguntó."
    if following == "»" and (text[match.end() + 1 : match.end() + 2] or " ").isspace():
        return False
    if stop != "." or match["closed"] or following in _OPENERS:
        return True
    return not _is_abbreviation(text, match.start(), match.end(), begin)


def _ends_elsewhere(text: str, match: re.Match[str]) -> bool:
    """Whether a match of `_OTHER_END` ends a sentence."""
    following = text[match.end() : match.end() + 1]
    if match["shad"] is not None:
        return text[match.end() - 1].isspace()
    if match["free"] is not None:
        # In Japanese a particle after a quotation goes on with the sentence.
        is_quoted = following == "と" and text[match.end() - 1] in "」』"
        return not is_quoted and following not in tuple("、，；：,;:)）」』")
    return not following.islower()


def _is_abbreviation(text: str, stop: int, after: int, begin: int) -> bool:
    """Whether the word before the full stop at ``stop`` is cut short by it, or is the number of an item of a list."""
    first = max(begin, stop - _LONGEST_MARK)
    if _MARK_ONLY.search(("" if first == begin else "…") + text[first:stop]):
        return True
    word = _LAST_WORD.search(text, max(0, stop - _LONGEST_ABBREVIATION), stop)
    if word is None:
        return False
    # "I" is a pronoun more often than a number or an initial.
    if _NUMBERED.fullmatch(word[0]):
        number = _NUMBER.match(text, after)
        return number is not None and not (number[0] == "I" and word[0].lower() == "no")
    if word[0].isdigit():
        return len(word[0]) <= 2 and _AFTER_DAY.match(text, after) is not None
    if len(word[0]) == 1:
        return word[0] != "I" if word[0].isupper() else _LETTER_AND_STOP.match(text, after) is not None
    return _ABBREVIATION.fullmatch(word[0]) is not None


def _in_brackets(text: str, place: int) -> bool:
    """Whether a bracket is open at a place, as far as the characters before it tell."""
    before = text[max(0, place - _BRACKET_REACH) : place]
    return before.rfind("(") > before.rfind(")")
