"""Documents with a format as rows of a table: their paragraphs, times and pages, and the settings of decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.errors import RequestError
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.task import TextSegmentation
from testing import document_files

BUCKETS = 64
TASK = TextSegmentation(buckets=BUCKETS, with_text=True)
SENTENCES = ["The day began.", "It was warm.", "Nobody spoke.", "Then it rained.", "All went home.", "Night came."]
#: A long pause before the fourth sentence.
CUES = [(n * 2.0 + (30.0 if n >= 3 else 0.0), n * 2.0 + 1.9 + (30.0 if n >= 3 else 0.0), text)
        for n, text in enumerate(SENTENCES)]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> SentenceTagger:
    torch.manual_seed(0)
    config = SentenceTaggerConfig(
        buckets=BUCKETS, vector_size=8, width=8, hidden=8, dropout=0.0, recurrent_members=1, attention_members=0
    )
    return SentenceTagger(config).eval()


def rows(task: TextSegmentation, network: SentenceTagger, *documents: tuple[bytes, str]) -> list[dict[str, Any]]:
    columns = {"data": [data for data, _ in documents], "format": [form for _, form in documents]}
    prepared = task.prepare(pa.table(columns | {"label": [None] * len(documents)}, INPUT_SCHEMA))
    assert prepared["error"].null_count == prepared.num_rows, prepared["error"]
    predicted = task.predict(network, prepared.drop(["error"]), torch.device("cpu"))
    return task.encode(predicted).to_pylist()


def begins(row: dict[str, Any]) -> list[str]:
    return [row["text"][span["start"] : span["end"]].split(".")[0] for span in row["paragraphs"]]


def test_rows_of_all_formats_give_their_text_back(network: SentenceTagger) -> None:
    files = [(write(SENTENCES), "object") for write in document_files.WITH_PARAGRAPHS.values()]
    files += [(write(CUES), "object") for write in document_files.WITH_CUES.values()]
    files += [(" ".join(SENTENCES).encode(), "object")]
    found = rows(TASK, network, *files)
    assert [row["format"] for row in found] == [
        "plain",
        "html",
        "docx",
        "epub",
        "pdf",
        "srt",
        "vtt",
        "whisper",
        "plain",
    ]
    for row in found:
        spans = row["paragraphs"]
        assert "".join(row["text"][span["start"] : span["end"]] for span in spans) == row["text"]
        assert hashlib.sha256(row["text"].encode()).hexdigest() == row["text_sha256"]
        assert (row["pages"] is not None) == (row["format"] == "pdf")
        assert (row["times"] is not None) == (row["format"] in ("srt", "vtt", "whisper"))
    assert TASK.schema.names.count("text") == 1
    assert "text" not in replace(TASK, with_text=False).schema.names


def test_a_paragraph_of_a_transcript_has_its_times(network: SentenceTagger) -> None:
    row = rows(replace(TASK, threshold=0.9, pause_weight=3.0), network, (document_files.vtt(CUES), "vtt"))[0]
    assert begins(row)[:2] == ["The day began", "Then it rained"], "the pause"
    assert row["times"][0] == {"first_s": 0.0, "last_s": 5.9}
    assert row["times"][1]["first_s"] == 36.0
    assert row["times"][-1]["last_s"] == 41.9


def test_a_longer_pause_never_lowers_the_score_and_weight_0_ignores_it(network: SentenceTagger) -> None:
    def score(pause: float, weight: float) -> float:
        cues = [(first + (pause if n >= 3 else 0.0), last + (pause if n >= 3 else 0.0), text)
                for n, (first, last, text) in enumerate((n * 2.0, n * 2.0 + 1.9, text)
                for n, text in enumerate(SENTENCES))]  # fmt: skip
        fine = replace(TASK, granularity=0.0, pause_weight=weight)
        return rows(fine, network, (document_files.srt(cues), "srt"))[0]["paragraphs"][3]["score"]

    found = [score(pause, 1.0) for pause in (0.0, 0.5, 5.0, 60.0)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert len({score(pause, 0.0) for pause in (0.0, 60.0)}) == 1


def test_pages_are_those_where_paragraphs_begin(network: SentenceTagger) -> None:
    text = [
        f"Paragraph {n} of many. It speaks of nothing in particular, at some length." * (1 + n % 4) for n in range(60)
    ]
    row = rows(TASK, network, (document_files.pdf(text, head="A head"), "pdf"))[0]
    assert "A head" not in row["text"]
    assert "Page 2" not in row["text"]
    assert 55 <= row["num_paragraphs"] <= 60
    assert row["pages"] == sorted(row["pages"])
    assert set(row["pages"]) == {1, 2, 3, 4}


def test_without_weight_the_layout_does_not_count(network: SentenceTagger) -> None:
    data = document_files.webpage(SENTENCES)
    plain = "\n\n".join(SENTENCES).encode()
    with_layout, without, text = (
        rows(task, network, (given, form))[0]
        for task, given, form in (
            (TASK, data, "html"),
            (replace(TASK, layout_weight=0.0), data, "html"),
            (TASK, plain, "plain"),
        )
    )
    assert with_layout["num_paragraphs"] == len(SENTENCES)
    assert without["paragraphs"] == text["paragraphs"]


@pytest.mark.parametrize("form", ["plain", "html", "srt"])
def test_paragraphs_only_at_breaks(network: SentenceTagger, form: str) -> None:
    lines = [" ".join(SENTENCES[:3]), " ".join(SENTENCES[3:])]
    data, breaks = {
        "plain": ("\n".join(lines).encode(), {0, len(lines[0]) + 1}),
        "html": (document_files.webpage(lines), {0, len(lines[0]) + 2}),
        "srt": (document_files.srt([(0, 5, lines[0]), (6, 9, lines[1])]), {0, len(lines[0]) + 1}),
    }[form]
    row = rows(replace(TASK, granularity=0.0, only_at_breaks=True), network, (data, form))[0]
    assert {span["start"] for span in row["paragraphs"]} == breaks


def test_limits_hold_for_whole_documents(network: SentenceTagger) -> None:
    text = " ".join(SENTENCES * 30).encode()
    for granularity in (0.0, 0.5, 1.0):
        task = replace(TASK, min_paragraph_chars=60, max_paragraph_chars=150, granularity=granularity)
        row = rows(task, network, (text, "plain"))[0]
        lengths = np.array([span["end"] - span["start"] for span in row["paragraphs"]])
        assert 60 <= lengths.min() <= lengths.max() <= 150
        assert lengths.sum() == row["num_chars"]


def test_what_has_no_known_paragraphs_is_not_learned_from() -> None:
    columns = {"data": [document_files.srt(CUES), document_files.docx(SENTENCES)], "format": ["object"] * 2}
    samples = TASK.prepare_samples(pa.table(columns | {"label": [None] * 2}, INPUT_SCHEMA))
    assert samples["error"][0].as_py()["code"] == "no_paragraphs"
    assert TASK.truth(samples.slice(1).drop(["error"])) == {"boundary": len(SENTENCES) - 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_paragraph_chars": -1}, "TextSegmentation.min_paragraph_chars must not be negative, got -1"),
        ({"max_paragraph_chars": 0}, "TextSegmentation.max_paragraph_chars must be at least 1, or null, got 0"),
        (
            {"min_paragraph_chars": 9, "max_paragraph_chars": 8},
            "TextSegmentation.max_paragraph_chars must not be less than the min_paragraph_chars, got 8",
        ),
        ({"granularity": 1.5}, r"TextSegmentation.granularity must be in \[0, 1\], got 1.5"),
        ({"granularity": float("nan")}, r"TextSegmentation.granularity must be in \[0, 1\], got nan"),
        ({"pause_weight": -0.5}, r"TextSegmentation.pause_weight must be in \[0, 100\], got -0.5"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TextSegmentation(**settings)
