"""Documents as they come, through one command: a folder of every format, whole and broken, in archives and alone."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.originals import Originals
from pipeline.sinks import open_sink
from testing import document_files
from testing.golden import GOLDEN
from testing.jobs import call_job

pytestmark = pytest.mark.ray

PARAGRAPHS = ["The day began. It was warm.", "Nobody spoke of it.", "Then it rained for hours. All went home."] * 3
CUES = [(2.0 * n, 2.0 * n + 1.5, text) for n, text in enumerate(PARAGRAPHS)]
BROKEN = {
    "cut.docx": (document_files.docx(PARAGRAPHS)[:300], "bad_document"),
    "cut.epub": (document_files.epub(PARAGRAPHS)[:300], "bad_document"),
    "cut.pdf": (b"%PDF-1.7", "bad_document"),
    "latin.html": (b"<html><p>\xe9", "bad_encoding"),
    "latin.md": (b"# \xe9", "bad_encoding"),
    "locked.pdf": (document_files.pdf(PARAGRAPHS, password="p"), "encrypted"),
    "metadata.json": (b'{"a": 1}', "other_data"),
    "negative.vtt": (b"WEBVTT\n\n-00:01.000 --> 00:02.000\nx\n", "bad_document"),
    "no times.srt": (b"1\nx\n", "bad_document"),
    "scan.pdf": (document_files.scan(), "no_text"),
}


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    inbox = folder / "inbox"
    inbox.mkdir()
    good = {f"good{ending}": write(PARAGRAPHS) for ending, write in document_files.WITH_PARAGRAPHS.items()}
    good |= {f"talk{ending}": write(CUES) for ending, write in document_files.WITH_CUES.items()}
    for name, data in {**good, **{name: data for name, (data, _) in BROKEN.items()}, "photo.png": b""}.items():
        (inbox / name).write_bytes(data)
    (inbox / "page.html.gz").write_bytes(gzip.compress(good["good.html"]))
    (inbox / "source.txt").write_bytes(good["good.html"])
    with tarfile.open(inbox / "all.tar", "w") as archive:
        for name, data in {**good, "other.dat": b"1"}.items():
            info = tarfile.TarInfo(f"in/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    code, summary, err = call_job(
        "segment_documents",
        *("--source", str(inbox), "--sink", str(folder / "sink")),
        *("--with-text", "--max-paragraph-chars", "120", "--max-error-rate", "1"),
    )
    assert code == 0, err
    assert "the model is builtin:paragraphs-en" in err
    assert summary["passed_over"] == {".png": 1, ".dat": 1}
    page = Path(summary["report"]).read_text()
    assert "Documents with their paragraphs" in page
    assert "The day began" in page
    return folder


def test_every_file_has_its_row(place: Path) -> None:
    rows = open_sink(str(place / "sink")).rows().to_pylist()
    named = {(Path(row["uri"]).name, row["member"]): row for row in rows}
    errors = {name: row["error"]["code"] for (name, _), row in named.items() if row["error"]}
    assert errors == {name: code for name, (_, code) in BROKEN.items()}
    formats = {name: row["format"] for (name, member), row in named.items() if not row["error"] and member is None}
    assert formats == {
        "good.md": "markdown",
        "good.html": "html",
        "good.docx": "docx",
        "good.epub": "epub",
        "good.pdf": "pdf",
        "talk.srt": "srt",
        "talk.vtt": "vtt",
        "talk.json": "whisper",
        "page.html.gz": "html",
        "source.txt": "plain",
    }
    for name in ("good.html", "good.docx", "good.md", "good.epub", "good.pdf", "talk.srt", "talk.vtt", "talk.json"):
        whole, member = named[name, None], named["all.tar", f"in/{name}"]
        for key in ("text", "times", "pages"):
            assert whole[key] == member[key], (name, key)
        for key in ("start", "end", "score"):
            mine, theirs = ([span[key] for span in row["paragraphs"]] for row in (whole, member))
            assert mine == pytest.approx(theirs, abs=1e-5), (name, key)


def test_the_texts_are_read_again_through_the_same_door(place: Path) -> None:
    rows = open_sink(str(place / "sink")).rows("error is null").to_pylist()
    assert Originals().texts([row | {"text": None} for row in rows]) == [row["text"] for row in rows]
    for row in rows:
        lengths = [span["end"] - span["start"] for span in row["paragraphs"]]
        assert sum(lengths) == row["num_chars"]
        assert max(lengths) <= 120 or row["format"] == "plain"  # the source of a page has no sentences
    code, summary, err = call_job("verify", "--sink", str(place / "sink"))
    assert (code, summary["status"]) == (0, "sound"), err


def test_a_scan_has_a_row_with_ocr(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.pdf").write_bytes(document_files.scanned(document_files.pdf(PARAGRAPHS[:3])))
    code, summary, err = call_job(
        "segment_documents", "--source", str(tmp_path / "in"), "--sink", str(tmp_path / "sink"), "--ocr", "--with-text"
    )
    assert (code, summary["done"], summary["failed"]) == (0, 1, 0), err
    (row,) = open_sink(str(tmp_path / "sink")).rows().to_pylist()
    assert (row["format"], row["text"]) == ("pdf-ocr", "\n".join(PARAGRAPHS[:3]))
    assert row["pages"] == [1] * row["num_paragraphs"]
    assert Originals().texts([row | {"text": None}]) == [row["text"]]
    (tmp_path / "in" / "scan.pdf").unlink()
    (other,) = Originals().texts([row | {"text": "changed"}])
    assert isinstance(other, InputError)
    assert Originals().texts([row]) == [row["text"]]
    assert "It was read by OCR" in Path(summary["report"]).read_text()


def test_blocks_are_the_truth_of_an_evaluation(place: Path) -> None:
    given = ("--model", str(GOLDEN / "tagger"), "--data", str(place / "inbox" / "all.tar"), "--split", "all")
    code, summary, err = call_job("evaluate", *given, "--out", str(place / "evaluation"))
    assert code == 0, err
    assert summary["metrics"]["documents"] == 4
    assert summary["failed"] == {"no_paragraphs": 4}
