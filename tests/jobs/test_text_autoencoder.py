"""An autoencoder of sentences as a user finds it: trained on texts, it finds paragraphs and writes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import package
from pipeline.examples.prose import reference_documents, write_jsonl
from pipeline.table.readers import open_delta
from testing.jobs import call_job

pytestmark = pytest.mark.ray

SMALL = (
    *("--model.vocabulary", "400", "--model.embedding", "8", "--model.encoder_hidden", "8"),
    *("--model.decoder_hidden", "8", "--model.latents", "4", "--task.max_subwords", "16"),
    *("--train.epochs", "2", "--validation_fraction", "0.3", "--train.threads", "1"),
)

TAGGER = (
    *("--task.buckets", "512", "--model.buckets", "512", "--model.vector_size", "8", "--model.width", "8"),
    *("--model.hidden", "8", "--model.recurrent_members", "1", "--model.attention_members", "0"),
    *("--validation_fraction", "0.3", "--train.threads", "1"),
)
ENCODER = ("table.weight", "onward.weight_ih_l0", "homeward.weight_hh_l0", "posterior.weight")


def test_from_texts_to_paragraphs_and_to_new_texts(cluster: None, tmp_path: Path) -> None:
    write_jsonl(str(tmp_path / "texts.jsonl"), reference_documents()[:8])
    texts, out = ("--documents", str(tmp_path / "texts.jsonl")), ("--out", str(tmp_path / "model"))
    code, summary, said = call_job("train_text_autoencoder", *texts, *out, *SMALL)
    assert code == 0, said[-2000:]
    assert summary["kind"] == "text_autoencoder"
    assert {"nll_word", "nll_subword", "kl", "reconstruction", "active_units"} <= set(summary["metrics"])
    assert "100 held-out documents" in summary["columns"]["novelty"]
    assert "A validation document" in Path(summary["report"]).read_text()
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["model"]["config"]["vocabulary"] == 259 + len(settings["task"]["vocabulary"]) <= 400
    assert {item.suffix for item in (tmp_path / "model").iterdir() if item.is_file()} <= {
        *(".json", ".jsonl", ".md", ".html", ".safetensors")
    }
    code, again, _ = call_job("train_text_autoencoder", *texts, *out, *SMALL)
    assert (code, again["digest"], again["resumed_from_step"]) == (0, summary["digest"], summary["steps"])

    model = ("--model", str(tmp_path / "model"))
    sink = ("--source", texts[1], "--sink", str(tmp_path / "sink"), "--granularity", "0.4")
    code, summary, said = call_job("segment_documents", *model, *sink)
    assert (code, summary["done"], summary["failed"]) == (0, 8, 0), said[-2000:]
    row = open_delta(str(tmp_path / "sink")).to_pyarrow_table().to_pylist()[0]
    assert len(row["embedding"]) == 4
    assert row["novelty_raw"] > 0
    assert row["paragraphs"][-1]["end"] == row["num_chars"]
    assert all(left["end"] == right["start"] for left, right in itertools.pairwise(row["paragraphs"]))
    assert call_job("verify", "--sink", str(tmp_path / "sink"))[0] == 0
    code, summary, _ = call_job("evaluate", *model, "--data", texts[1], "--split", "all")
    assert (code, {"f1", "f1_all_boundaries", "pk"} <= set(summary["metrics"])) == (0, True)

    learned = ("--documents", texts[1], "--out", str(tmp_path / "tagger"), "--train.epochs", "1", *TAGGER)
    code, summary, said = call_job("train_text_segmenter", *learned, "--init", model[1])
    assert (code, summary["kind"]) == (0, "text_segmenter"), said[-2000:]
    own, used = (package.load(str(tmp_path / name)) for name in ("model", "tagger"))
    assert used.task["vocabulary"] == own.task["vocabulary"]
    assert all(torch.equal(used.weights()[f"encoder.{name}"], own.weights()[name]) for name in ENCODER)
    code, summary, said = call_job(
        "segment_documents", "--model", used.uri, *sink[:2], "--sink", str(tmp_path / "by-tagger")
    )
    assert (code, summary["done"]) == (0, 8), said[-2000:]

    given = (*model, "--out", str(tmp_path / "samples"), "--count", "4", "--paragraphs", "1", "--sentences", "3")
    code, summary, said = call_job("sample", *given, "--from-text", "One here.", "--to-text", "Two.", "--steps", "5")
    assert code == 0, said[-2000:]
    written = pq.read_table(summary["samples"])
    assert written["kind"].to_pylist() == ["sample"] * 4 + ["interpolation"] * 5 + ["paragraph"] * 3
    assert "autoregression" in Path(summary["text"]).read_text()
    code, refused, _ = call_job("sample", *given, "--images", str(tmp_path))
    assert (code, "neither images nor pictures" in refused["error"]) == (2, True)
    small = ("--model.vocabulary", "99", "--out", str(tmp_path / "other"))
    code, refused, _ = call_job("train_text_autoencoder", *texts, *small)
    assert (code, "at least the 259 ids of single bytes, got 99" in refused["error"]) == (2, True)
    assert not (tmp_path / "other").exists()
