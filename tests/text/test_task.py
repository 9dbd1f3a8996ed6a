"""Text segmentation as a task: from bytes to rows of a table, and from labelled documents to samples."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence
from torch.nn import functional

from pipeline.config import from_dict, to_dict
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.learning import likeliest_offsets
from pipeline.text.task import TextSegmentation
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

BUCKETS = 512
TASK = TextSegmentation(buckets=BUCKETS, window_sentences=12, context_sentences=2, window_batch=3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take most of the time of a small model on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(seed: int = 0) -> SentenceTagger:
    torch.manual_seed(seed)
    return SentenceTagger(
        SentenceTaggerConfig(
            buckets=BUCKETS, vector_size=8, width=8, hidden=8, dropout=0.0, recurrent_members=1, attention_members=0
        )
    ).eval()


def inputs(*documents: bytes, wrapping: str = "object") -> pa.Table:
    rows = [{"data": data, "format": wrapping, "label": None} for data in documents]
    return pa.Table.from_pylist(rows, INPUT_SCHEMA)


def story(paragraphs: int, seed: int = 0) -> list[str]:
    """Paragraphs that all begin with "So" and have sentences that never do."""
    random = np.random.default_rng(seed)
    names = ["Fox", "Hen", "Cat", "Owl", "Bee"]

    def sentence(first: str) -> str:
        return f"{first} the {random.choice(names)} saw the {random.choice(names)}."

    return [
        " ".join([sentence("So"), *(sentence("Then") for _ in range(random.integers(0, 5)))]) for _ in range(paragraphs)
    ]


def record(paragraphs: list[str], glue: str = "\n\n") -> bytes:
    text, spans = glue.join(paragraphs), []
    for paragraph in paragraphs:
        start = spans[-1][1] + len(glue) if spans else 0
        spans.append([start, start + len(paragraph)])
    return json.dumps({"text": text, "paragraphs": spans, "doc_id": "tale"}).encode()


def segment(task: TextSegmentation, network: SentenceTagger, table: pa.Table) -> pa.Table:
    prepared = task.prepare(table)
    assert prepared["error"].null_count == prepared.num_rows
    return task.encode(task.predict(network, prepared.drop(["error"]), CPU))


def test_a_row_has_what_the_schema_says() -> None:
    text = "One.\n\nTwo? Three! Four."
    found = segment(TASK, model(), inputs(text.encode("utf-16"), b"Lonely."))
    assert found.schema == TASK.schema
    assert found.schema.names == [
        *(
            "doc_id",
            "num_chars",
            "text_sha256",
            "encoding",
            "format",
            "language",
            "paragraphs",
            "num_paragraphs",
            "times",
            "pages",
        ),
        *("confidence", "uncertainty", "novelty", "novelty_raw", "embedding"),
    ]
    first, second = found.to_pylist()
    assert first["num_chars"] == len(text)
    assert first["encoding"] == "utf-16"
    assert first["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert first["num_paragraphs"] == len(first["paragraphs"])
    assert 0.5 <= first["confidence"] <= 1
    assert second["paragraphs"] == [{"start": 0, "end": 7, "score": 1.0}]
    assert second["confidence"] is second["uncertainty"] is second["novelty"] is second["embedding"] is None


def test_no_rows() -> None:
    assert segment(TASK, model(), inputs()).schema == TASK.schema
    assert TASK.prepare_samples(inputs()).num_rows == 0


def test_failed_rows_stay_where_they_are() -> None:
    good, bad = record(story(2)), b'{"text": 1}'
    prepared = TASK.prepare(inputs(bad, good, b"{", wrapping="json"))
    codes = [error and error["code"] for error in prepared["error"].to_pylist()]
    assert codes == ["bad_record", None, "bad_record"]
    assert prepared["doc_id"].to_pylist() == [None, "tale", None]
    samples = TASK.prepare_samples(inputs(bad, good, wrapping="json"))
    assert [error is None for error in samples["error"].to_pylist()] == [False, True]


def test_features_do_not_depend_on_the_other_rows() -> None:
    documents = [b"One. Two!", b"caf\xe9", b'"Three?"', b""]
    together = TASK.prepare(inputs(*documents))
    for row, document in enumerate(documents):
        alone = TASK.prepare(inputs(document))
        assert together.schema == alone.schema
        assert together.slice(row, 1).to_pylist() == alone.to_pylist()
    assert together["content"].null_count == 2


def test_a_document_can_be_too_long() -> None:
    task = TextSegmentation(max_chars=5)
    prepared = task.prepare(inputs(b"123456", b"12345"))
    message = "the document has 6 characters, more than 5"
    assert prepared["error"].to_pylist() == [{"stage": "prepare", "code": "too_long", "message": message}, None]


@given(st.lists(st.text('aB .!?\n。"', min_size=1).filter(str.strip), min_size=1, max_size=5))
@settings(max_examples=30)
def test_paragraphs_tile_every_document(texts: list[str]) -> None:
    found = segment(TASK, model(), inputs(*(text.encode() for text in texts)))
    for text, row in zip(texts, found.to_pylist(), strict=True):
        edges = [(p["start"], p["end"]) for p in row["paragraphs"]]
        assert edges[0][0] == 0
        assert edges[-1][1] == len(text)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
        assert all(start < end for start, end in edges)


def test_scores_do_not_depend_on_the_batch() -> None:
    documents = [" ".join(story(count, count)).encode() for count in (1, 9, 30, 2, 14)]
    network = model()
    alone = [TASK.predict(network, TASK.prepare(inputs(data)).drop(["error"]), CPU) for data in documents]
    prepared = TASK.prepare(inputs(*documents)).drop(["error"])
    for window_batch in (1, 4, 64):
        task = TextSegmentation(buckets=BUCKETS, window_sentences=12, context_sentences=2, window_batch=window_batch)
        together = task.predict(network, prepared, CPU)
        for row, expected in enumerate(alone):
            scores = expected["scores"][0].as_py()
            assert together["scores"][row].as_py() == pytest.approx(scores, abs=1e-5)
            assert together["starts"][row] == expected["starts"][0]


@given(st.integers(1, 400), st.integers(0, 20), st.integers(1, 60))
def test_windows_score_each_sentence_once(count: int, context: int, core: int) -> None:
    task = TextSegmentation(window_sentences=2 * context + core, context_sentences=context)
    scored = []
    for start, end, first, last in task._windows(count):
        assert 0 <= start <= first < last <= end <= count
        assert end - start <= task.window_sentences
        assert first - start == min(context, first)
        assert end - last == min(context, count - last)
        scored += range(first, last)
    assert scored == list(range(count))


def test_labels_of_samples() -> None:
    paragraphs = story(8)
    samples = TASK.prepare_samples(inputs(record(paragraphs), wrapping="json"))
    batch = TASK.collate(samples.drop(["error"]))
    truth = []
    for paragraph in paragraphs:
        truth += [1] + [0] * (paragraph.count(".") - 1)
    labels = batch["labels"]
    # The first sentence is not scored.
    assert labels[labels >= 0].tolist() == truth[1:]
    assert batch["missed"].tolist() == [0] * samples.num_rows
    inside = torch.arange(labels.shape[1]) < batch["lengths"][:, None]
    assert (labels[~inside] == -1).all()
    assert (batch["counts"][~inside] == 0).all()


def test_a_paragraph_inside_a_sentence_is_missed() -> None:
    batch = TASK.collate(TASK.prepare_samples(inputs(record(["One, two,", "three. Four."]), wrapping="json")))
    assert batch["missed"].tolist() == [1]
    assert batch["labels"].tolist() == [[-1, 0]]
    statistics = TASK.score(model(), batch, Noise(0, 0, [0]))
    assert TASK.summarize(statistics)["recall"] == 0


def test_blank_lines_are_the_truth_of_plain_text_and_are_hidden() -> None:
    paragraphs = story(4)
    plain = TASK.prepare_samples(inputs("\n\n".join(paragraphs).encode()))
    assert plain.equals(TASK.prepare_samples(inputs(record(paragraphs), wrapping="json")))
    assert plain.equals(TASK.prepare_samples(inputs(record(paragraphs, " "), wrapping="json")))
    seen = TextSegmentation(buckets=BUCKETS, window_sentences=12, context_sentences=2, hide_breaks_in_training=False)
    assert not seen.prepare_samples(inputs("\n\n".join(paragraphs).encode())).equals(plain)


def test_dropped_words_belong_to_the_window() -> None:
    task = TextSegmentation(buckets=BUCKETS, window_sentences=12, context_sentences=2, feature_dropout=0.3)
    batch = task.collate(task.prepare_samples(inputs(record(story(30)), wrapping="json")).drop(["error"]))
    rows = len(batch["lengths"])
    augmented = task.augment(batch, Noise(1, 5, range(rows)))
    kept = augmented["kept"]
    assert torch.equal(augmented["content"], batch["content"])
    assert 0.55 < kept[batch["content"] > 0].float().mean() < 0.85
    part = {name: tensor[2:4, ...] for name, tensor in batch.items()}
    assert torch.equal(task.augment(part, Noise(1, 5, [2, 3]))["kept"], kept[2:4])
    assert not torch.equal(task.augment(batch, Noise(1, 6, range(rows)))["kept"], kept)
    # A word goes in all its places or in none.
    for ids, now in zip(batch["content"], kept, strict=True):
        assert not set(ids[(ids > 0) & ~now].tolist()) & set(ids[now].tolist())


def test_word_vectors_come_from_the_training_windows() -> None:
    table = inputs(*(record(story(12, seed)) for seed in range(6)), wrapping="json")
    samples = Samples([TASK.prepare_samples(table).drop(["error"])])
    network, again = model(0), model(1)
    fresh = network.vectors.clone()
    TASK.start(network, samples.shuffled(0, 5))
    TASK.start(again, samples.shuffled(0, 5))
    assert not torch.equal(network.vectors, fresh)
    assert torch.equal(network.vectors, again.vectors)
    assert torch.equal(network.weights, again.weights)
    assert torch.equal(network.lasting, again.lasting)
    assert not torch.equal(network.lasting, torch.eye(8))
    seen = np.unique(np.concatenate([row.as_py() for row in samples.take(range(len(samples)))["content"]]))
    assert set(network.weights.nonzero()[:, 0].tolist()) <= set(seen.tolist())
    assert len(network.weights.nonzero()) > 5


def test_the_words_of_a_large_corpus_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.task.MAX_TOKENS", 60)
    batches = Samples([TASK.prepare_samples(inputs(record(story(60)), wrapping="json")).drop(["error"])])
    left = batches.shuffled(0, 2)
    TASK.start(model(), left)
    assert sum(1 for _ in left) > 5


def test_offsets_are_the_mode() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 40, generator=random, dtype=torch.float64)
    truth = torch.randint(0, 2, (3, 40), generator=random).double().expand_as(logits)
    scored = torch.rand(3, 40, generator=random) < 0.8
    logits[1, 0], scored[2] = -20, False  # as wrong as can be; nothing known
    std = 0.5
    found = likeliest_offsets(logits, truth, scored, std)
    assert found.shape == (2, 3, 1)
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    for member, window in ((0, 0), (0, 1), (1, 0), (1, 1)):
        known = scored[window]
        moved = logits[member, window, known][:, None] + grid
        labels = truth[member, window, known][:, None].expand_as(moved)
        losses = functional.binary_cross_entropy_with_logits(moved, labels, reduction="none").sum(0)
        best = grid[(losses + grid**2 / (2 * std**2)).argmin()]
        assert found[member, window].item() == pytest.approx(best.item(), abs=1e-3)
    assert not found[:, 2].any()
    assert not likeliest_offsets(logits, truth, scored, 0.0).any()


def test_how_often_an_author_begins_paragraphs_is_not_learned() -> None:
    """A window whose every logit is off by one loses less than without an offset; what is relative stays."""
    batch = TASK.collate(TASK.prepare_samples(inputs(record(story(8)), wrapping="json")).drop(["error"]))
    noise, network = Noise(0, 0, range(len(batch["counts"]))), model()
    plain, free = replace(TASK, offset_std=0.0), replace(TASK, offset_std=10.0)
    with torch.no_grad():
        before = [float(task.loss(network, batch, noise).total) for task in (plain, free)]
        for member in network.members:
            member.head[-1].bias += 2.0
        after = [float(task.loss(network, batch, noise).total) for task in (plain, free)]
    assert abs(after[0] - before[0]) > 1
    assert after[1] == pytest.approx(before[1], rel=1e-3)


def test_a_model_is_to_agree_with_itself() -> None:
    """The loss grows by the divergence of two answers, and not where nothing is dropped."""
    batch = TASK.collate(TASK.prepare_samples(inputs(record(story(8)), wrapping="json")).drop(["error"]))
    torch.manual_seed(0)
    network = SentenceTagger(replace(model().config, dropout=0.5, recurrent_members=1, attention_members=1))
    answers = []
    network.register_forward_hook(lambda *call: answers.append(call[-1]))

    def total(weight: float) -> float:
        answers.clear()
        task = replace(TASK, consistency=weight, offset_std=0.0)
        with torch.no_grad():
            return float(task.loss(network, batch, Noise(0, 0, range(len(batch["counts"])))).total)

    once = total(1e-9)
    first, second = (torch.distributions.Bernoulli(logits=logits) for logits in answers)
    divergence = (kl_divergence(first, second) + kl_divergence(second, first)) / 2
    expected = (divergence * (batch["labels"] != -1)).sum() / 2  # the mean over members
    assert expected > 1e-3
    assert total(1.0) - once == pytest.approx(float(expected), rel=1e-3)
    assert total(3.0) - once == pytest.approx(3 * float(expected), rel=1e-3)
    total(0.0)
    assert len(answers) == 1
    network.config = replace(network.config, dropout=0.0)
    for member in network.members:
        member.config = network.config
    assert total(3.0) == pytest.approx(total(0.0))


def test_f1_by_hand() -> None:
    """Scores 0.9 and 0.3 of true boundaries, 0.5 of a wrong one, and one true boundary at no sentence."""
    statistics = {name: torch.zeros(500, dtype=torch.float64) for name in ("positive", "negative")}
    statistics["positive"][[450, 150]] = 1
    statistics["negative"][250] = 1
    statistics["missed"] = torch.tensor(1.0, dtype=torch.float64)
    metrics = TASK.summarize(statistics)
    assert metrics["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["threshold"] <= 0.3
    strict = TextSegmentation(threshold=0.8).summarize(statistics)
    assert strict == pytest.approx({"f1": 2 * 1 / (1 + 3), "precision": 1.0, "recall": 1 / 3, "threshold": 0.8})


def test_each_document_has_its_own_threshold_unless_one_is_asked_for() -> None:
    text = b"One. Two. Three. Four. Five. Six. Seven. Eight. Nine."
    table = TASK.prepare(inputs(text, text)).drop(["error", "content"])
    scores = [[1, *[0.28, 0.27] * 4], [1, 0.9, 0.05, 0.85, *[0.05] * 5]]
    predicted = table.append_column("scores", pa.array(scores, pa.large_list(pa.float32())))
    assert TASK.encode(predicted)["num_paragraphs"].to_pylist() == [9, 3]
    assert replace(TASK, threshold=0.275).encode(predicted)["num_paragraphs"].to_pylist() == [5, 3]


def test_members_answer_together_and_are_trained_apart() -> None:
    together, apart = SentenceTagger(replace(model().config, recurrent_members=2)), [model(), model()]
    for member, single in zip(together.members, apart, strict=True):
        single.members[0].load_state_dict(member.state_dict())
        single.set_vectors(together.vectors, together.weights, together.lasting)

    def log_odds(network: SentenceTagger) -> torch.Tensor:
        prepared = TASK.prepare(inputs(" ".join(story(9)).encode())).drop(["error"])
        (scores,) = TASK.predict(network, prepared, CPU)["scores"].to_pylist()
        return torch.logit(torch.tensor(scores))

    first, second = (log_odds(single) for single in apart)
    torch.testing.assert_close(log_odds(together), (first + second) / 2, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
    batch = TASK.collate(TASK.prepare_samples(inputs(record(story(6)), wrapping="json")).drop(["error"]))
    noise = Noise(0, 0, range(len(batch["counts"])))
    first_loss, second_loss = (TASK.loss(single, batch, noise) for single in apart)
    both = TASK.loss(together, batch, noise)
    torch.testing.assert_close(both.total, (first_loss.total + second_loss.total) / 2)
    assert both.units == first_loss.units


def test_it_learns_what_paragraphs_begin_with() -> None:
    table = inputs(*(record(story(12, seed)) for seed in range(12)), wrapping="json")
    task = dataclasses.replace(TASK, unpunctuated_fraction=0.0)
    samples = Samples([task.prepare_samples(table).drop(["error"])])
    config = TrainConfig(epochs=30, batch_rows=8, learning_rate=0.02, ema_decay=0.9, evaluate_every_epochs=10)
    trainer = Trainer(TASK, model(), config, samples, samples)
    for _ in trainer.run():
        pass
    assert trainer.best_metrics["f1"] > 0.99
    network = trainer.best_model()
    assert isinstance(network, SentenceTagger)
    stories = [story(9, seed=100 + number) for number in range(5)]
    rows = segment(TASK, network, inputs(*(" ".join(paragraphs).encode() for paragraphs in stories))).to_pylist()
    for paragraphs, row in zip(stories, rows, strict=True):
        starts = np.cumsum([0, *(len(paragraph) + 1 for paragraph in paragraphs)])[:-1]
        assert [p["start"] for p in row["paragraphs"]] == starts.tolist()


def test_settings() -> None:
    assert from_dict(TextSegmentation, to_dict(TASK)) == TASK
    with pytest.raises(RequestError, match=r"window_sentences must be more than twice the context_sentences, got 4"):
        TextSegmentation(window_sentences=4, context_sentences=2)
    with pytest.raises(RequestError, match=r"TextSegmentation.threshold must be in \(0, 1\], or null, got 0.0"):
        TextSegmentation(threshold=0.0)
    with pytest.raises(RequestError, match=r"TextSegmentation.offset_std must not be negative, got -1.0"):
        TextSegmentation(offset_std=-1.0)
    with pytest.raises(RequestError, match=r"the model is for 512 buckets and 28 numbers a sentence, the task"):
        TextSegmentation().predict(model(), TASK.prepare(inputs(b"Hello.")).drop(["error"]), CPU)
