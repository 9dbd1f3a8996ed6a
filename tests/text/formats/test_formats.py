"""Each format by hand: what is text, what is not, and what it says about paragraphs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.text.formats.detection import format_of
from pipeline.text.formats.document import BLOCK_EVIDENCE, pause_evidence
from pipeline.text.reading import read_document
from testing import document_files

CUES = [(1.0, 2.5, "Hello there."), (2.5, 4.0, "We go on."), (4.1, 5.0, "Still."), (9.0, 10.0, "After a pause.")]


def blocks(data: bytes, form: str) -> list[str]:
    return read_document(data, form).text.split("\n\n")


def refusal(data: bytes, form: str) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        read_document(data, form)
    return caught.value.code, caught.value.message


def test_subrip_without_numbers_tags_and_placement() -> None:
    data = (
        "\ufeff1\r\n00:00:01,000 --> 00:00:02,500 X1:10 X2:20\r\n<i>Hi</i>, 2 < 3,\r\n<font color='red'>you</font>\r\n"
        "\r\n2\r\n00:00:03.000 --> 01:00:04.000\r\n{\\an8}50\r\nmen.\r\n"
    ).encode()
    document = read_document(data, "object").document
    assert (document.format, document.encoding) == ("srt", "utf-8-sig")
    assert document.text == "Hi, 2 < 3, you 50 men."
    assert document.cues == [(0, 1.0, 2.5), (15, 3.0, 3604.0)]
    assert document.breaks == [15]


def test_webvtt_without_notes_settings_and_tags() -> None:
    data = (
        b"WEBVTT - a talk\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE\nnobody reads this\n\n"
        b"intro\n00:01.000 --> 00:02.000 position:10%\n<v Ann>Tom &amp; I <00:01.500><c.x>went.</c></v>\n\n"
        b"01:00:00.500 --> 01:00:01.000\nHome.\n"
    )
    document = read_document(data, "object").document
    assert document.text == "Tom & I went. Home."
    assert document.cues == [(0, 1.0, 2.0), (14, 3600.5, 3601.0)]


@pytest.mark.parametrize("shape", ["openai", "whisperx", "list"])
def test_transcripts_of_whisper(shape: str) -> None:
    segments = [{"start": 0, "end": 1.5, "text": " One."}, {"start": 2.0, "end": 3.0, "text": "Two. "}]
    whole = {
        "openai": {"text": " One. Two.", "segments": [item | {"id": 0, "seek": 0, "tokens": [1]} for item in segments]},
        "whisperx": {"segments": [item | {"words": [{"word": "One", "score": 0.9}]} for item in segments]},
        "list": segments,
    }
    document = read_document(json.dumps(whole[shape]).encode(), "object").document
    assert (document.format, document.text) == ("whisper", "One. Two.")
    assert document.cues == [(0, 0.0, 1.5), (5, 2.0, 3.0)]


def test_pauses_worked_by_hand() -> None:
    # The pauses are 0, 0.1 and 4 seconds; the usual one is 0.1.
    evidence, inside = pause_evidence(np.array([cue[:2] for cue in CUES]))
    assert evidence.tolist() == pytest.approx([np.log(0.1 / 0.2), 0.0, np.log(4.1 / 0.2)])
    assert inside == pytest.approx(np.log(0.1 / 0.2))
    assert pause_evidence(np.array([[0, 1], [60, 61]]))[0].tolist() == [0], "two cues have no usual pause"


def test_pauses_are_monotone() -> None:
    found = [pause_evidence(np.array([[0, 1], [2, 3], [4, 5], [5 + p, 99]]))[0][-1] for p in np.linspace(0, 90, 50)]
    assert (np.diff(found) >= 0).all()
    assert -2 <= found[0] < 0 < found[-1] == 4


def test_a_page_is_its_main_text() -> None:
    page = b"""<!-- a --><!DOCTYPE html><html><head><title>T</title><style>p{}</style></head><body>
    <header>Site</header><nav><a href=/>Home</a></nav><ul><li><a href=a>A</a><li><a href=b>B</a><li><a href=c>C</a></ul>
    <article><h1>Heading</h1><p>One <b>bold</b> &amp; <a href=x>linked</a>
    line.<p>Two<br>lines.<ul><li>first<li>second</ul><pre>code
      kept

    whole</pre><table><tr><td>1</td><td>2</td></tr></table><div>In a div<script>no()</script></div></article>
    <aside>Other</aside><footer>Imprint</footer></body></html>"""
    assert blocks(page, "object") == [
        *("Heading", "One bold & linked line.", "Two\nlines.", "first", "second"),
        *("code\n      kept\n    whole", "1 2", "In a div"),
    ]


def test_menus_are_left_out_only_if_they_are_runs_of_links() -> None:
    links = "".join(f"<li><a href=/{n}>Link {n}</a></li>" for n in range(4))
    assert blocks(f"<html><ul>{links}</ul><p>Text.</p></html>".encode(), "html") == ["Text."]
    assert blocks(b"<html><p><a href=/>A headline</a></p><p>Text.</p></html>", "html") == ["A headline", "Text."]


@pytest.mark.parametrize(
    ("declared", "encoding"), [("iso-8859-1", "windows-1252"), ("windows-1252", "cp1252"), ("shift_jis", "shift_jis")]
)
def test_the_encoding_of_a_page_is_what_it_declares(declared: str, encoding: str) -> None:
    text = "“Ja” é" if "jis" not in declared else "東京"
    data = f'<html><meta http-equiv="Content-Type" content="text/html; charset={declared}"><p>{text}'.encode(
        "cp1252" if "jis" not in declared else declared
    )
    document = read_document(data, "html").document
    assert (document.text, document.encoding) == (text, encoding)


def test_markdown_without_its_marks() -> None:
    data = (
        b"---\ntitle: x\n---\n# A *heading*\n\nOne [link](http://x) and `code`,\nover two lines.\n\n- a\n- b\n\n"
        b"> quoted\n\n```py\nx = 1\n\ny\n```\n\n| h | i |\n|---|---|\n| c | d |\n\n<b>html</b> ![picture](p.png)\n"
    )
    assert blocks(data, "markdown") == [
        *("A heading", "One link and code,\nover two lines.", "a", "b", "quoted", "x = 1\ny", "h", "i", "c", "d"),
        "html picture",
    ]


def test_a_word_file_without_what_is_deleted_or_repeated() -> None:
    run = "<w:r><w:t>{}</w:t></w:r>".format
    box = f"<w:p>{run('In a box.')}</w:p>"
    body = (
        f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr>{run('A')}<w:r><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>"
        f"<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins>{run('kept')}</w:ins></w:p>"
        f"<w:tbl><w:tr><w:tc><w:p>{run('cell')}</w:p></w:tc></w:tr></w:tbl>"
        f"<w:p>{run('Host.')}<m:AlternateContent><m:Choice>{box}</m:Choice><m:Fallback>{box}</m:Fallback>"
        "</m:AlternateContent></w:p>"
    )
    xml = f'<w:document xmlns:w="w" xmlns:m="m"><w:body>{body}</w:body></w:document>'
    data = document_files.zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": xml})
    assert blocks(data, "object") == ["A b\nc", "kept", "cell", "In a box.", "Host."]


def test_a_book_in_the_order_of_its_spine() -> None:
    found = read_document(document_files.epub(["One.", "Two.", "Three."]), "object")
    assert (found.document.format, found.text) == ("epub", "One.\n\nTwo.\n\nThree.")
    assert found.document.evidence == [BLOCK_EVIDENCE] * 2


@pytest.mark.parametrize(
    ("data", "named", "expected"),
    [
        (b"<!doctype html><p>x", None, "html"),
        (b"<!doctype html><p>x", "plain", "plain"),
        (b"<html>", "markdown", "markdown"),
        (b"%PDF-1.4", "html", "pdf"),
        (b"%PDF-1.4", "plain", "plain"),
        (b"x", "html", "html"),
        (b"x", None, "plain"),
        (b"WEBVTT\n\n", None, "vtt"),
        (b"WEBVTTX", None, "plain"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nx", "vtt", "srt"),
        (b'{"a": 1}', None, "plain"),
        (b'{"a": 1}', "whisper", "whisper"),
        (document_files.docx(["x"]), None, "docx"),
        (document_files.epub(["x"]), "docx", "epub"),
        (document_files.zipped({"a.csv": "1"}), None, "plain"),
    ],
)
def test_the_first_bytes_decide_and_then_the_name(data: bytes, named: str | None, expected: str) -> None:
    assert format_of(data, named) == expected


def test_old_and_encrypted_files_of_office_are_told_apart() -> None:
    old = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
    assert refusal(old, "docx")[0] == "bad_document"
    assert refusal(old + "EncryptedPackage".encode("utf-16-le"), "docx")[0] == "encrypted"
    assert refusal(document_files.pdf(["x"], password="p"), "pdf")[0] == "encrypted"


def test_formats_that_do_not_say_where_paragraphs_begin_are_no_truth() -> None:
    with pytest.raises(InputError, match="a vtt file does not say where its paragraphs begin"):
        read_document(document_files.vtt(CUES), "vtt").known_paragraphs()
