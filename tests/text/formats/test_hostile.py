"""Broken and hostile documents of every format: a row with a code and a message of our own, and never a dead run."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.text.reading import read_document
from testing import document_files
from testing.document_files import mutant, pdf_of_objects, zipped

CUES = [(float(n), n + 0.5, "Hi there, five men.") for n in range(5)]
SEEDS = {
    **{end: write(["One. Two.", "Three & four."] * 3) for end, write in document_files.WITH_PARAGRAPHS.items()},
    **{end: write(CUES) for end, write in document_files.WITH_CUES.items()},
}
CATALOGUE = b"<</Type/Catalog/Pages 2 0 R>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10))


def word_file(xml: str | bytes) -> bytes:
    return zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": xml})


HOSTILE = {
    "a zip file whose part grows to 400 MB": (word_file(b"<a>" + bytes(400 << 20)), "docx", "too_large"),
    "a zip file of 21,000 files": (zipped({"word/document.xml": "", **{f"f{n}": "" for n in range(21_000)}}), "docx",
                                   "too_large"),
    "XML whose entities grow": (word_file(f"<!DOCTYPE a [{ENTITIES}]><document>&e9;</document>"), "docx",
                                "bad_document"),
    "an entity of another file": (word_file('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><document>&x;'),
                                  "docx", "bad_document"),
    "a spreadsheet": (zipped({"[Content_Types].xml": "<Types/>", "xl/workbook.xml": "<a/>"}), "docx", "bad_document"),
    "a book without a package": (zipped({"META-INF/container.xml": "<container/>"}), "epub", "bad_document"),
    "a PDF whose pages are their own children": (
        pdf_of_objects(CATALOGUE, b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>"), "pdf", "bad_document"),
    "a PDF of 1,000,000 pages": (
        pdf_of_objects(CATALOGUE, b"<</Type/Pages/Kids[" + b"3 0 R " * 1_000_000 + b"]/Count 1000000>>", PAGE),
        "pdf", "too_long"),
    "a PDF that claims pages": (
        pdf_of_objects(CATALOGUE, b"<</Type/Pages/Kids[3 0 R]/Count 9000>>", PAGE), "pdf", "bad_document"),
    "a scan": (document_files.scan(), "pdf", "no_text"),
    "no PDF": (b"%PDF-1.7 and no more", "pdf", "bad_document"),
    "captions with negative times": (b"WEBVTT\n\n-00:01.000 --> 00:02.000\nx\n", "vtt", "bad_document"),
    "captions that end before they begin": (b"WEBVTT\n\n00:03.000 --> 00:02.000\nx\n", "vtt", "bad_document"),
    "captions with no times": (b"WEBVTT\n\n99 --> x\nx\n", "vtt", "bad_document"),
    "captions without text": (b"WEBVTT\n\n00:01.000 --> 00:02.000\n<c></c>\n", "vtt", "no_text"),
    "subtitles without an arrow": (b"1\n00:00:01,000 00:00:02,000\nx\n", "srt", "bad_document"),
    "a transcript with NaN": (b'{"segments": [{"start": NaN, "end": 1, "text": "a"}]}', "whisper", "bad_document"),
    "a transcript without end": (b'{"segments": [{"start": 0, "end": 1e999, "text": "a"}]}', "whisper",
                                 "bad_document"),
    "a transcript with a truth value": (b'{"segments": [{"start": true, "end": 1, "text": "a"}]}', "whisper",
                                        "bad_document"),
    "half a surrogate pair": (b'{"segments": [{"start": 0, "end": 1, "text": "\\ud800"}]}', "whisper", "not_text"),
    "other JSON": (b'{"a": 1}', "whisper", "other_data"),
    "JSON that is nested deeply": (b"[" * 100_000, "whisper", "bad_document"),
    "a page of scripts": (b"<html><script>x</script></html>", "html", "no_text"),
    "an encoding that is none": (b"<html><meta charset=klingon><p>x", "html", "bad_encoding"),
    "an encoding of bytes": (b"<html><meta charset=zip><p>x", "html", "bad_encoding"),
    "Markdown of nothing but quotes": (b">" * 10_000, "markdown", "no_text"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_has_one_code(name: str) -> None:
    data, form, code = HOSTILE[name]
    with pytest.raises(InputError) as caught:
        read_document(data, form)
    assert caught.value.code == code, caught.value.message
    assert caught.value.message[0].islower() or caught.value.message.startswith("XML")


@pytest.mark.parametrize("ending", SEEDS)
def test_a_changed_document_is_read_or_has_a_code(ending: str) -> None:
    outcomes = {seed: outcome(mutant(SEEDS[ending], seed)) for seed in range(24)}
    assert not {"internal", "crashed", "timeout"} & set(outcomes.values()), outcomes
    assert len(set(outcomes.values())) > 1, "the mutants are all alike"


def outcome(data: bytes) -> str:
    try:
        return read_document(data, "object").document.format
    except InputError as reason:
        return reason.code
