"""Novelty of documents: the statistics by hand, and documents of a made-up language beside strange ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import from_dict, to_dict
from pipeline.feature_gaussian import FeatureGaussian, auroc
from pipeline.models.documents.c99 import C99, C99Config
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.features import SentenceFeatures
from pipeline.text.novelty import DocumentReference, beginning, reference
from pipeline.text.novelty_trial import STRANGE, tried
from pipeline.text.statistics import DocumentStatistics, WordTable, word_table
from pipeline.text.task import TextSegmentation

BUCKETS = 512
WEIGHTS = np.ones(BUCKETS, np.float32)


def features(sentences: list[list[int]]) -> SentenceFeatures:
    counts = np.array([len(sentence) for sentence in sentences], np.int32)
    content = np.array([word for sentence in sentences for word in sentence], np.int32)
    frame, dense = np.zeros((len(sentences), 3), np.int32), np.full((len(sentences), 2), 0.5, np.float32)
    return SentenceFeatures(content, counts, frame, dense)


def tale(seed: int, sentences: int = 30) -> SentenceFeatures:
    """Sentences of an article (1 or 2), a noun, a verb (3 or 4), an article, a noun and a stop (5)."""
    random = np.random.default_rng(seed)
    return features(
        [
            [random.choice([1, 2]), random.integers(20, 400), random.choice([3, 4]), 1, random.integers(20, 400), 5]
            for _ in range(sentences)
        ]
    )


TALES = [tale(seed) for seed in range(160)]
GROUPS = [place // 10 for place in range(160)]


def test_statistics_by_hand() -> None:
    """Two words in the table; 7 of another kind. Pairs within sentences: 3 7, 7 4 and 3 4."""
    table = WordTable(words=(3, 4), costs=(1.0, 2.0, 4.0), pairs=((0, 20, 5), (0, 0, 0), (0, 10, 0)))
    found = DocumentStatistics(table, BUCKETS, WEIGHTS).of(features([[3, 7, 4], [3, 4]]))
    assert found[0] == pytest.approx(np.log(1 / 5 + 0.02))
    assert found[1] == pytest.approx((1 + 4 + 2 + 1 + 2) / 5)
    assert found[2] == pytest.approx((0.5 + 1.0 + 2.0) / (3 + 20))
    assert found[3] == pytest.approx(2.0 / (1 + 20))
    assert found[10] == pytest.approx((np.log(4) + np.log(3)) / 2)


def test_repetition_is_seen() -> None:
    statistics = DocumentStatistics(word_table(TALES, BUCKETS), BUCKETS, WEIGHTS)
    once, again = features([list(range(20, 60))]), features([list(range(20, 30))] * 4)
    # 37 sequences of four words, of which 10 are different in the repeated text.
    assert statistics.of(once)[9] == pytest.approx(np.log(0.02))
    assert statistics.of(again)[9] == pytest.approx(np.log(1 - 10 / 37 + 0.02))


def test_words_in_their_order_inform_of_each_other() -> None:
    table = word_table(TALES, BUCKETS)
    verb, noun, article = table.words.index(3), len(table.words), table.words.index(1)
    assert table.pairs[verb][article] > 5
    assert table.pairs[article][verb] < -5
    assert table.pairs[article][noun] > 0


def test_strange_documents_are_far_and_known_ones_are_not() -> None:
    found = reference(TALES, GROUPS, BUCKETS, WEIGHTS)
    statistics = found.statistics(BUCKETS, WEIGHTS)

    def ranks(documents: list[SentenceFeatures]) -> np.ndarray:
        raw = found.raw(np.stack([statistics.of(item) for item in documents]))
        return found.percentile(raw, np.array([len(item.content) for item in documents]))

    new = [tale(seed) for seed in range(1_000, 1_100)]
    assert 30 < ranks(new).mean() < 70
    assert (ranks(new) > 95).mean() < 0.15
    for change in STRANGE.values():
        assert (ranks([change(item, BUCKETS) for item in new]) > 95).mean() > 0.9
    # Short ones are compared with short ones.
    assert 25 < ranks([beginning(item, 60) for item in new]).mean() < 75


def test_the_percentile_is_among_documents_of_that_length() -> None:
    gaussian = FeatureGaussian(mean=(0.0,), deviation=(1.0,), components=((1.0,),), variances=(1.0,), rest=0.0)
    table = WordTable(words=(3,), costs=(1.0, 1.0), pairs=((0, 0), (0, 0)))
    found = DocumentReference(table=table, gaussian=gaussian, lengths=(100, 400), quantiles=((0.0, 8.0), (0.0, 4.0)))
    raw, words = np.array([4.0, 4.0, 4.0, 2.0, 9.0]), np.array([10, 200, 4_000, 400, 100])
    assert found.percentile(raw, words).tolist() == pytest.approx([50, 75, 100, 50, 100])
    assert from_dict(DocumentReference, to_dict(found)) == found


def test_the_beginning_of_a_document_has_whole_sentences() -> None:
    document = features([[1, 2], [3], [4, 5, 6]])
    assert beginning(document, 1).counts.tolist() == [2]
    assert beginning(document, 3).content.tolist() == [1, 2, 3]
    assert beginning(document, 4).content.tolist() == [1, 2, 3, 4, 5, 6]
    assert beginning(document, 99).counts.tolist() == [2, 1, 3]


def test_uncertainty_that_tells_more_leaves_no_novelty() -> None:
    known = {document.content.tobytes() for document in TALES}

    def sure_of_known(document: SentenceFeatures) -> np.ndarray:
        is_known = document.content.tobytes() in known
        return np.full(len(document.counts), 0.99 if is_known else 0.5, np.float32)

    kept, remark = tried(TALES, GROUPS, BUCKETS, WEIGHTS, lambda item: np.full(len(item.counts), 0.5, np.float32))
    assert kept is not None
    assert remark.startswith("AUROC ")
    assert "of uncertainty 0.500" in remark
    nothing, remark = tried(TALES, GROUPS, BUCKETS, WEIGHTS, sure_of_known)
    assert nothing is None
    assert remark.startswith("null: it tells no more than uncertainty does (AUROC ")
    nothing, remark = tried(TALES[:99], GROUPS[:99], BUCKETS, WEIGHTS, sure_of_known)
    assert (nothing, remark) == (None, "null: there were 99 training documents, and at least 100 are needed")


def test_rows_have_their_novelty_after_a_training() -> None:
    torch.manual_seed(0)
    config = SentenceTaggerConfig(
        buckets=BUCKETS, vector_size=4, width=4, hidden=4, recurrent_members=1, attention_members=0
    )
    network, task = SentenceTagger(config).eval(), TextSegmentation(buckets=BUCKETS)
    random = np.random.default_rng(0)

    def written(order: bool) -> bytes:
        nouns = ["fox", "hen", "cat", "owl", "bee", "elk", "cow", "ape"]
        words = [f"The {random.choice(nouns)} saw a {random.choice(nouns)}." for _ in range(40)]
        text = " ".join(words)
        return (text if order else " ".join(random.permutation(text.split()))).encode()

    def rows(contents: list[bytes]) -> pa.Table:
        return pa.Table.from_pylist(
            [{"data": item, "format": "object", "label": None} for item in contents], INPUT_SCHEMA
        )

    samples = task.prepare_samples(rows([written(True) for _ in range(120)])).drop(["error"])
    after = task.calibrated(network, [samples.slice(100)], [samples.slice(0, 100)])
    assert after.novelty_reference is not None
    assert after.remarks["novelty"].startswith("AUROC ")
    assert from_dict(TextSegmentation, to_dict(after)) == after
    prepared = after.prepare(rows([written(True), written(False)])).drop(["error"])
    known, strange = after.encode(after.predict(network, prepared, torch.device("cpu"))).to_pylist()
    assert known["novelty"] < strange["novelty"] == 100
    assert known["novelty_raw"] < strange["novelty_raw"]
    before = task.encode(task.predict(network, prepared, torch.device("cpu"))).to_pylist()
    assert [row["novelty"] for row in before] == [None, None]
    assert task.remarks == {"novelty": "null: the package has no statistics of its training documents"}
    few = task.calibrated(network, [], [samples.slice(0, 50)])
    assert few.remarks == {"novelty": "null: there were 50 training documents, and at least 100 are needed"}


def test_a_method_that_learned_nothing_has_no_novelty() -> None:
    task = TextSegmentation(buckets=BUCKETS)
    assert task.with_novelty(C99(C99Config(buckets=BUCKETS)), TALES, GROUPS) == task


def test_auroc_by_hand() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(3.5 / 4)
