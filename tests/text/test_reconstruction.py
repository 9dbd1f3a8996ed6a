"""The task of an autoencoder of sentences: samples, likelihood, its schedule, and rows of documents."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import from_dict, to_dict
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_vae import SentenceVAE, SentenceVAEConfig
from pipeline.models.documents.writing import WritingConfig
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.drawing import Writer
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.subwords import FIRST_PIECE
from pipeline.text.task import TextSegmentation

PIECES = ("th", "the", " the", "in")
TASK = SentenceReconstruction(vocabulary=PIECES, max_subwords=12, window_sentences=3, importance_samples=3)
CONFIG = SentenceVAEConfig(
    vocabulary=FIRST_PIECE + len(PIECES), embedding=6, encoder_hidden=5, decoder_hidden=7, latents=4
)
CPU = torch.device("cpu")
TEXT = "The one. In the two, perhaps. Three there.\n\nThe four. Five! Six of the seven. Eight."


def network() -> SentenceVAE:
    torch.manual_seed(0)
    return SentenceVAE(CONFIG)


def inputs(*texts: str) -> pa.Table:
    data = [json.dumps({"text": text}).encode() for text in texts]
    columns = {"data": data, "format": ["json"] * len(data), "label": [None] * len(data)}
    return pa.table(columns, schema=INPUT_SCHEMA)


def rows(task: SentenceReconstruction, *texts: str) -> list[dict[str, Any]]:
    prepared = task.prepare(inputs(*texts))
    assert prepared["error"].null_count == len(texts)
    return task.encode(task.predict(network(), prepared.drop_columns(["error"]), CPU)).to_pylist()


def test_windows_hold_consecutive_sentences() -> None:
    samples = TASK.prepare_samples(inputs(TEXT, "", "One."))
    assert samples["begins_document"].to_pylist() == [True, False, False, None, True]
    assert [error and error["code"] for error in samples["error"].to_pylist()] == [None, None, None, "empty", None]
    good = samples.filter(samples["error"].is_null()).drop_columns(["error"])
    batch = TASK.collate(good)
    assert batch["words"].tolist() == [[2, 4, 2], [2, 1, 4], [1, 0, 0], [1, 0, 0]]
    assert batch["ids"].shape == (4, 3, 12)
    second = batch["ids"][1, 1, : batch["lengths"][1, 1]].tolist()
    assert TASK.subwords().decode(second) == "Five!"
    assert batch["lengths"].max() == 12  # a longer sentence is cut


def test_the_bound_gets_tighter_with_samples() -> None:
    samples = TASK.prepare_samples(inputs(TEXT)).drop_columns(["error"])
    batch, model = TASK.collate(samples), network()
    with torch.no_grad():
        model.posterior.bias[:4] = 1.0  # latents that tell the network nothing, but have a divergence of 2 nats

    def found(count: int, step: int) -> dict[str, float]:
        task = dataclasses.replace(TASK, importance_samples=count)
        with torch.inference_mode():
            return task.summarize(task.score(model, batch, Noise(0, step, range(samples.num_rows))))

    ones, many = [found(1, step) for step in range(20)], found(200, 0)
    loose = np.mean([one["nll_sentence"] for one in ones])
    assert loose == pytest.approx(np.mean([one["reconstruction"] + one["kl"] for one in ones]), abs=0.5)
    assert many["nll_sentence"] == pytest.approx(many["reconstruction"], abs=0.7)
    assert loose - many["nll_sentence"] == pytest.approx(2, abs=0.9)
    # A network that knows nothing is near to equal probabilities.
    assert many["nll_subword"] == pytest.approx(math.log(CONFIG.vocabulary), rel=0.05)
    assert many["nll_subword"] * batch["lengths"].sum() == pytest.approx(many["nll_word"] * batch["words"].sum())


def test_free_bits_and_the_weight_of_the_divergence() -> None:
    task = dataclasses.replace(TASK, pretraining=0.2, warmup=0.4, free_nats=0.0, word_dropout=0.0)
    weights = [task.kl_weight(step, 100) for step in (0, 19, 20, 39, 59, 60, 99)]
    assert weights == pytest.approx([0, 0, 1 / 40, 20 / 40, 1, 1, 1])
    samples = TASK.prepare_samples(inputs(TEXT)).drop_columns(["error"])
    batch, model = task.collate(samples), network()

    def loss(step: int, free_nats: float) -> tuple[float, dict[str, float]]:
        found = dataclasses.replace(task, free_nats=free_nats).loss(model, batch, _at(step, samples.num_rows))
        return found.total.item(), {name: value.item() for name, value in found.logs.items()}

    total, logs = loss(0, 0.0)
    assert total == pytest.approx(logs["reconstruction_subword"])
    total, logs = loss(99, 0.0)
    assert total == pytest.approx(logs["reconstruction_subword"] + logs["kl_subword"])
    total, logs = loss(99, 5.0)  # 4 latents of 7 sentences, none of which tells as much
    assert total == pytest.approx(logs["reconstruction_subword"] + 5 * 4 * 7)


def _at(step: int, count: int) -> Noise:
    return Noise(0, step, range(count), 100)


def test_the_decoder_begins_anew_once() -> None:
    task, model = dataclasses.replace(TASK, pretraining=0.25), network()
    renewed = [step for step in range(40) if task.renew(model, step, 40, 0)]
    assert renewed == [10]
    assert not dataclasses.replace(TASK, pretraining=0.0).renew(model, 0, 40, 0)


def test_documents_become_the_rows_of_a_tagger() -> None:
    task = dataclasses.replace(TASK, with_text=True)
    first, single = rows(task, TEXT, "One.")
    assert [*first] == TextSegmentation(with_text=True).schema.names
    spans = first["paragraphs"]
    assert [span["start"] for span in spans] == [0, *(span["end"] for span in spans[:-1])]
    assert spans[-1]["end"] == len(TEXT)
    assert all(0 <= span["score"] <= 1 for span in spans)
    assert 0.5 <= first["confidence"] <= 1
    assert len(first["embedding"]) == 4
    assert first["novelty_raw"] > 0
    assert first["novelty"] is None
    assert (single["num_paragraphs"], single["confidence"]) == (1, None)
    assert rows(task, "One.", TEXT)[1] == first  # no row depends on the others


def test_settings_of_decoding_count() -> None:
    whole, every, long = (
        rows(dataclasses.replace(TASK, **change), TEXT)[0]["paragraphs"]
        for change in ({"granularity": 1.0}, {"granularity": 0.0}, {"min_paragraph_chars": 40})
    )
    assert (len(whole), len(every)) == (1, 7)
    assert min(span["end"] - span["start"] for span in long) >= 40


def test_calibration_knows_successions_and_depths() -> None:
    samples = TASK.prepare_samples(inputs(*[TEXT] * 3)).drop_columns(["error"])
    task = TASK.calibrated(network(), [samples.slice(0, 4), samples.slice(4)], [samples.slice(0, 1)])
    assert task.known is not None
    assert len(task.known.succession.offset) == 4
    assert task.known.depth[1] > 0
    assert "100 held-out documents" in task.remarks["novelty"]
    assert from_dict(SentenceReconstruction, json.loads(json.dumps(to_dict(task)))) == task
    many = TASK.calibrated(network(), [TASK.prepare_samples(inputs(*[TEXT] * 100)).drop_columns(["error"])])
    assert many.known is not None
    assert len(many.known.novelty) == 101
    assert 0 <= rows(many, TEXT)[0]["novelty"] <= 100


def test_texts_depend_on_the_seed_and_their_number_alone() -> None:
    task = TASK.calibrated(network(), [TASK.prepare_samples(inputs(TEXT)).drop_columns(["error"])])
    for decoding in ("beam", "nucleus"):
        config = WritingConfig(decoding=decoding, max_subwords=5, beam_width=2)
        writer = Writer(task, network(), config, seed=1)
        assert writer.samples(4)[:2] == writer.samples(2)
        assert len(writer.interpolation("The one.", "Two.", 5)) == 5
        assert writer.paragraph(1, 3) == Writer(task, network(), config, seed=1).paragraph(1, 3)
        assert writer.paragraph(1, 3)[:2] == writer.paragraph(1, 2)
    with pytest.raises(RequestError, match="knows no succession"):
        Writer(TASK, network(), config, seed=1).paragraph(0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": 2.0}, r"SentenceReconstruction.granularity must be in \[0, 1\], got 2.0"),
        ({"pretraining": 0.8, "warmup": 0.4}, "warmup must be in"),
        ({"importance_samples": 0}, "importance_samples must be at least 1"),
        ({"vocabulary": ("a",)}, "two bytes or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SentenceReconstruction(**settings).check_model(CONFIG)


def test_a_network_of_another_vocabulary_is_refused() -> None:
    task = SentenceReconstruction(vocabulary=("ab",))
    with pytest.raises(RequestError, match=r"SentenceVAEConfig\.vocabulary must be the 260 ids"):
        task.check_model(CONFIG)
    assert np.isfinite(task.kl_weight(0, 0))
