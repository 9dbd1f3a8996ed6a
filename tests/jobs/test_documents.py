"""Documents as a user segments them: train on known paragraphs, find them in text where they are hidden."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.examples.prose import record, reference_documents, write_jsonl
from pipeline.text.inputs import join_paragraphs
from testing.equality import assert_equal_tables, table_rows
from testing.jobs import call_job
from tests.jobs.conftest import Demonstration

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def place(demonstration: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration's tagger, and an inbox: text files, JSONL, Parquet would be the same, broken ones."""
    folder = tmp_path_factory.mktemp("documents")
    records = reference_documents()
    write_jsonl(str(folder / "train.jsonl"), records[5:17])
    inbox = folder / "inbox"
    for item in records[:3]:
        text, _ = join_paragraphs(item["text"], item["paragraphs"])
        storage.write(str(inbox / f"{item['doc_id']}.txt"), text.encode())
    lines = [
        json.dumps(record(f"short-{n}", ["One sentence here.", "Und noch ein Satz: 東京。終わり。"])) for n in range(4)
    ]
    lines[1] = "{broken"
    lines[2] = json.dumps({"doc_id": "short-2"})
    storage.write(str(inbox / "records.jsonl"), "\n".join(lines).encode())
    storage.write(str(inbox / "empty.txt"), b"")
    storage.write(str(inbox / "latin.txt"), "é".encode("latin-1"))
    storage.write(str(inbox / "bom.txt"), "\ufeffA text. With two sentences.".encode("utf-16"))
    (folder / "tagger").symlink_to(demonstration.out / "tagger", target_is_directory=True)
    code, _, err = call_job("segment_documents", *segment(folder, "sink"))
    assert code == 0, err
    return folder


def segment(folder: Path, sink: str) -> list[str]:
    return ["--source", str(folder / "inbox"), "--model", str(folder / "tagger"), "--sink", str(folder / sink)]


def test_every_document_has_its_row(place: Path) -> None:
    rows = {(Path(row["uri"]).name, row["member"]): row for row in table_rows(str(place / "sink"))}
    errors = {key: row["error"]["code"] for key, row in rows.items() if row["error"]}
    assert errors == {
        ("empty.txt", None): "empty",
        ("latin.txt", None): "bad_encoding",
        ("records.jsonl", "2"): "bad_record",
        ("records.jsonl", "3"): "bad_record",
    }
    assert len(rows) == 3 + 4 + 3
    assert rows["records.jsonl", "4"]["doc_id"] == "short-3"
    assert rows["bom.txt", None]["encoding"].startswith("utf-16")


def test_paragraphs_tile_the_text(place: Path) -> None:
    for row in table_rows(str(place / "sink")):
        if row["error"] is not None:
            continue
        spans = row["paragraphs"]
        assert spans[0]["start"] == 0
        assert spans[-1]["end"] == row["num_chars"]
        assert all(left["end"] == right["start"] for left, right in itertools.pairwise(spans))
        assert len(spans) == row["num_paragraphs"]
        if row["member"] is None and row["encoding"] == "utf-8":
            text = Path(row["uri"]).read_text()
            assert "".join(text[span["start"] : span["end"]] for span in spans) == text


def test_results_ignore_scheduling(place: Path) -> None:
    code, summary, err = call_job(
        "segment_documents", *segment(place, "other"), "--stream.actors", "2", "--stream.batch_rows", "1"
    )
    assert (code, summary["done"]) == (0, 6), err
    assert_equal_tables(str(place / "sink"), str(place / "other"))


def test_evaluate_says_what_a_guess_would_get(place: Path) -> None:
    code, summary, err = call_job(
        "evaluate", "--model", str(place / "tagger"), "--data", str(place / "train.jsonl"), "--split", "all"
    )
    assert (code, summary["inputs"]) == (0, 12), err
    assert {"f1", "f1_all_boundaries", "pk", "window_diff"} <= set(summary["metrics"])
    assert "<p" in Path(summary["report"]).read_text()
    code, summary, _ = call_job(
        "evaluate", "--model", str(place / "tagger"), "--data", str(place / "train.jsonl"), "--split", "nothing"
    )
    assert (code, "no document has a field 'split', so the split must be 'all'" in summary["error"]) == (2, True)
