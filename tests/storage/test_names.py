"""Names of files that are no text: every name has one text, and every text leads back to its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.storage.names import as_name, as_text, without_surrogates
from pipeline.table.lease import acquire

#: Pieces that collide if the escaping is careless: backslashes, digits, escapes themselves, bytes that are not UTF-8.
PIECES = (b"\\", b"x", b"u", b"5c", b"e9", b"d8", b"00", b"\xe9", b"\xc3", b"\xa9", b"\\xe9", b"\\x5c", "ü".encode())
NAMES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=8).map(b"".join)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.txt", r"caf\xe9.txt"),
        (rb"caf\xe9.txt", r"caf\x5cxe9.txt"),
        (rb"a\x5c", r"a\x5cx5c"),
        (b"a\\\xe9", r"a\\xe9"),
        (rb"\ud83d", r"\x5cud83d"),
        ("café \\x41 \\n 100%25".encode(), "café \\x41 \\n 100%25"),
    ],
)
def test_names_that_are_no_text_are_escaped_and_others_stay(name: bytes, text: str) -> None:
    assert as_text(os.fsdecode(name)) == text
    assert os.fsencode(as_name(text)) == name


@given(NAMES)
def test_every_name_is_found_again_by_its_text(name: bytes) -> None:
    text = as_text(os.fsdecode(name))
    assert text.encode().decode() == text
    assert os.fsencode(as_name(text)) == name
    assert without_surrogates(text) == text


@given(NAMES, NAMES)
def test_two_names_have_two_texts(one: bytes, other: bytes) -> None:
    assert (as_text(os.fsdecode(one)) == as_text(os.fsdecode(other))) == (one == other)


@given(st.text(st.characters(categories=None), max_size=9))
def test_text_from_anywhere_can_be_stored(text: str) -> None:
    without_surrogates(text).encode()
    as_text(text).encode()
    assert as_name(as_text(text)) == text


def test_a_folder_and_a_file_whose_names_are_latin_1_are_used_by_their_texts(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xe9t\xe9/plage \xe0.jpg"
    os.makedirs(os.path.dirname(name))
    Path(os.fsdecode(name)).write_bytes(b"picture")
    (page,) = storage.walk(str(tmp_path))
    (uri,) = page["uri"].to_pylist()
    assert uri == rf"{tmp_path}/\xe9t\xe9/plage \xe0.jpg"
    assert storage.stat(uri).etag == page["etag"][0].as_py()
    assert storage.read(uri) == storage.fetch(uri, storage.Read()) == storage.open_file(uri).read() == b"picture"
    assert storage.canonical(os.fsdecode(name)) == storage.canonical(uri) == uri
    assert storage.names(str(tmp_path)) == [r"\xe9t\xe9"]
    assert storage.is_folder(rf"{tmp_path}/\xe9t\xe9")
    storage.write(uri, b"new")
    assert Path(os.fsdecode(name)).read_bytes() == b"new"
    storage.delete(uri)
    assert not storage.exists(uri)


def test_a_folder_that_is_written_must_have_a_name_in_utf_8(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="must be UTF-8"):
        acquire(os.fsdecode(os.fsencode(tmp_path) + b"/sin\xe9k"), "run", 60)
