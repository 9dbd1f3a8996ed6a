"""A child that hangs, eats memory or dies costs one document, and the next one has a child again."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pipeline.errors import InputError
from pipeline.text.formats import reader_process
from pipeline.text.formats.reader_process import ChildDied, ReaderProcess, read_in_child
from testing import document_files
from testing.document_files import pdf_of_objects

_DRAW = b"/F Do " * 50_000
#: A form that draws itself 50,000 times, each of which does so, too, as deep as PDFium goes.
ENDLESS = pdf_of_objects(
    b"<</Type/Catalog/Pages 2 0 R>>",
    b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
    b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</XObject<</F 4 0 R>>>>/Contents 4 0 R>>",
    b"<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F 4 0 R>>>>/Length %d>>stream\n%s\nendstream"
    % (len(_DRAW), _DRAW),
)


def test_a_child_that_hangs_is_ended() -> None:
    child = ReaderProcess(time_limit_s=1)
    started = time.monotonic()
    with pytest.raises(InputError, match="more than 1 seconds") as caught:
        child.ask(ENDLESS, "pdf")
    assert caught.value.code == "timeout"
    assert time.monotonic() - started < 30
    assert child._process.wait(30) == -signal.SIGALRM, "its own alarm has ended it, not the parent"
    child.end()


def test_a_child_that_wants_too_much_memory_says_so() -> None:
    for size in (20 << 20, 80 << 20):  # the text is too much, or the file itself
        child = ReaderProcess(memory_bytes=160 << 20)
        found = child.ask(b"<html>" + b"x " * size, "html")
        child.end()
        assert found["error"]["code"] == "out_of_memory", size


def test_a_child_that_is_killed_has_died() -> None:
    child = ReaderProcess()
    timer = threading.Timer(1.0, os.kill, (child.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(ChildDied):
        child.ask(ENDLESS, "pdf")
    timer.join()
    child.end()


def test_a_document_that_kills_two_children_fails_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, killed = ReaderProcess.ask, []

    def ask_the_dead(child: ReaderProcess, data: bytes, form: str) -> dict[str, object]:
        os.kill(child.pid, signal.SIGKILL)
        killed.append(child.pid)
        return ask(child, data, form)

    monkeypatch.setattr(ReaderProcess, "ask", ask_the_dead)
    with pytest.raises(InputError, match="died of this one, twice") as caught:
        read_in_child(document_files.docx(["One."]), "docx")
    assert (caught.value.code, len(set(killed))) == ("crashed", 2)
    monkeypatch.undo()
    assert read_in_child(document_files.docx(["One."]), "docx").text == "One."


def test_a_child_serves_many_documents_and_threads_have_their_own() -> None:
    assert read_in_child(document_files.docx(["One."]), "docx").text == "One."
    before = [child.pid for child in reader_process._CHILDREN._idle]
    assert read_in_child(document_files.docx(["Two."]), "docx").text == "Two."
    assert [child.pid for child in reader_process._CHILDREN._idle] == before

    found: dict[int, str] = {}

    def read(number: int) -> None:
        for _ in range(5):
            found[number] = read_in_child(document_files.docx([f"Thread {number}."]), "docx").text

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"Thread {number}." for number in range(3)}
