"""A tagger that reads latents of sentences: the same for every batch, from an encoder that does not learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.train_text_segmenter import TrainTextSegmenter, _start
from pipeline import package
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig, init_encoder
from pipeline.models.documents.sentence_vae import SentenceVAE, SentenceVAEConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.novelty_trial import STRANGE
from pipeline.text.subword_windows import subwords_of
from pipeline.text.subwords import FIRST_PIECE, learn_pieces
from pipeline.text.task import TextSegmentation
from pipeline.text.windows import features_at
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

STORY = "So the fox saw the hen. Then it ran. So the hen saw nothing at all. Then she slept. It was late. " * 6
PIECES = learn_pieces([STORY], 40)
ENCODER = SentenceVAEConfig(
    vocabulary=FIRST_PIECE + len(PIECES), embedding=6, encoder_hidden=5, decoder_hidden=5, latents=3
)
TASK = TextSegmentation(buckets=512, window_sentences=12, context_sentences=2, vocabulary=PIECES, max_subwords=9)
CPU = torch.device("cpu")


def tagger(encoder: SentenceVAEConfig | None = ENCODER) -> SentenceTagger:
    torch.manual_seed(0)
    sizes = {"vector_size": 8, "width": 8, "hidden": 8, "recurrent_members": 1, "attention_members": 1}
    config = SentenceTaggerConfig(buckets=512, attention_heads=2, dropout=0.1, encoder=encoder, **sizes)
    return SentenceTagger(config).eval()


def inputs(*texts: str) -> pa.Table:
    rows = [{"data": json.dumps({"text": text}).encode(), "format": "json", "label": None} for text in texts]
    return pa.Table.from_pylist(rows, INPUT_SCHEMA)


def scores(model: SentenceTagger, *texts: str) -> list[np.ndarray]:
    found = TASK.predict(model, TASK.prepare(inputs(*texts)).drop_columns(["error"]), CPU)
    return [np.array(row) for row in found["scores"].to_pylist()]


def test_latents_are_those_of_the_autoencoder_whatever_else_is_in_the_batch() -> None:
    autoencoder, model = SentenceVAE(ENCODER).eval(), tagger()
    assert set(init_encoder(model, autoencoder)) == {name for name in model.state_dict() if name.startswith("encoder.")}
    ids, words = subwords_of(PIECES).encode("So the fox saw the hen.", 9)
    assert 0 < words < len(ids) <= 9
    subwords = torch.zeros(2, 3, 9, dtype=torch.long)
    subwords[1, 2, : len(ids)] = torch.tensor(ids)
    counts = torch.tensor([[0, 0, 0], [0, 0, len(ids)]])
    found = model.latents(subwords, counts)
    with torch.no_grad():
        own = autoencoder.encode(torch.tensor([ids]), torch.tensor([len(ids)])).mean[0]
    torch.testing.assert_close(found[1, 2], own)
    assert not found[0].any()
    one, other = STORY, "Only one here."
    for alone, together in zip((scores(model, one), scores(model, other)), scores(model, one, other), strict=True):
        np.testing.assert_allclose(alone[0], together, atol=1e-5)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.neg_()
    assert np.abs(scores(model, one)[0] - scores(tagger(), one)[0]).max() > 1e-4


def test_training_changes_the_tagger_and_not_its_encoder() -> None:
    model = tagger()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = TASK.prepare_samples(inputs(STORY.replace(" So", "\n\nSo"))).drop_columns(["error"])
    assert {"subwords", "subword_counts"} <= set(prepared.column_names)
    samples = Samples([prepared])
    trainer = Trainer(TASK, model, TrainConfig(epochs=2, batch_rows=2, learning_rate=0.01), samples, samples)
    assert all(np.isfinite(step.losses["loss"]) for step in trainer.run())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("encoder.")]


def test_documents_made_strange_keep_the_subwords_of_their_sentences() -> None:
    document = features_at(TASK.prepare(inputs(STORY)), 0)
    assert document.subwords is not None
    assert document.subword_counts is not None
    for name, change in STRANGE.items():
        found = change(document, TASK.buckets)
        assert found.subwords is not None, name
        assert found.subword_counts is not None, name
        assert len(found.subwords) == found.subword_counts.sum()
        assert len(found.subword_counts) == len(found.counts)
    ends = document.subword_counts.cumsum()
    repeated = STRANGE["repeated sentences"](document, TASK.buckets)
    assert repeated.subwords is not None
    np.testing.assert_array_equal(repeated.subwords[: ends[2]], document.subwords[: ends[2]])


def test_an_encoder_and_a_vocabulary_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=f"for {ENCODER.vocabulary} subwords, the task has 0"):
        replace(TASK, vocabulary=()).predict(tagger(), TASK.prepare(inputs(STORY)), CPU)
    with pytest.raises(RequestError, match="for 0 subwords"):
        TASK.predict(tagger(None), TASK.prepare(inputs(STORY)), CPU)
    with pytest.raises(RequestError, match="encoder must be the settings"):
        init_encoder(tagger(None), SentenceVAE(ENCODER))
    with pytest.raises(RequestError, match="sentence_vae, got a SentenceTagger"):
        init_encoder(tagger(), tagger())


def test_a_tagger_goes_on_with_the_encoder_of_another_and_contradictions_are_refused(tmp_path: Path) -> None:
    other = package.save(str(tmp_path / "tagger"), model_name="sentence_tagger", model=tagger(), task=TASK, card={})
    sizes = replace(tagger().config, encoder=None)
    settings = TrainTextSegmenter(
        documents="texts", out=str(tmp_path / "out"), init=other.uri, model=sizes, task=TextSegmentation(buckets=512)
    )
    task, model, (copy,) = _start(settings)
    assert (task.vocabulary, task.max_subwords, model.encoder) == (PIECES, 9, ENCODER)
    new = SentenceTagger(model)
    copy(new)
    assert all(torch.equal(value, tagger().state_dict()[name]) for name, value in new.state_dict().items())
    for changed in (
        {"task": replace(settings.task, vocabulary=PIECES[:3])},
        {"task": replace(settings.task, max_subwords=7)},
        {"model": replace(sizes, encoder=replace(ENCODER, latents=4))},
    ):
        with pytest.raises(RequestError, match="must be those of the package"):
            _start(replace(settings, **changed))
    with pytest.raises(RequestError, match="init must be given with a vocabulary"):
        _start(replace(settings, init=None, task=TASK))


@pytest.mark.parametrize("vocabulary", [("",), ("a", "a"), ("\u2603\u2603",)])
def test_a_vocabulary_that_is_none_is_refused_at_once(vocabulary: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="vocabulary"):
        TextSegmentation(vocabulary=vocabulary)
