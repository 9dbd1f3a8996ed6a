"""TextTiling and C99: worked by hand, and on texts whose topics change where one can see it."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from pipeline import config, models, package
from pipeline.errors import RequestError
from pipeline.models.documents.c99 import ranks, splits
from pipeline.models.documents.lexical import LexicalSegmenter
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig, init_from_tagger
from pipeline.models.documents.texttiling import _depths
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.task import TextSegmentation

NAMES = ["texttiling", "c99"]
TOPIC_SENTENCES, TOPIC_WORDS = 12, 9


def topics(number: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A window of ``number`` topics, each of sentences of words that no other topic has, and of one word of all."""
    generator = torch.Generator().manual_seed(seed)
    shape = (number, TOPIC_SENTENCES, TOPIC_WORDS)
    words = torch.randint(0, 20, shape, generator=generator) + 20 * torch.arange(number)[:, None, None] + 2
    words[..., 0] = 1
    count = number * TOPIC_SENTENCES
    return {
        "content": words.reshape(1, -1).int(),
        "counts": torch.full((1, count), TOPIC_WORDS, dtype=torch.int32),
        "frame": torch.zeros(1, count, 3, dtype=torch.int32),
        "dense": torch.zeros(1, count, 2),
        "lengths": torch.tensor([count]),
    }


def segmenter(name: str) -> LexicalSegmenter:
    model = models.build(name, {"buckets": 256, "dense_features": 2})
    assert isinstance(model, LexicalSegmenter)
    model.ignore(torch.tensor([1]))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_topics_are_found(name: str) -> None:
    logits = segmenter(name)(**topics(5))
    assert logits.shape == (1, 1, 5 * TOPIC_SENTENCES)
    found = ((logits[0, 0, 1:] >= 0).nonzero()[:, 0] + 1).tolist()
    # Token sequences of 20 words do not end where sentences of 9 words do, and C99 stops a split too late.
    assert len(found) in (4, 5)
    assert all(min(abs(place - true) for place in found) <= 1 for true in (12, 24, 36, 48))


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_other_windows_change_nothing(name: str) -> None:
    model, (long, short) = segmenter(name), (topics(4, 1), topics(3, 2))
    alone = model(**short)
    both = {
        key: torch.cat([long[key], torch.nn.functional.pad(short[key], pad)])
        for key, pad in {"content": (0, 108), "counts": (0, 12), "frame": (0, 0, 0, 12), "dense": (0, 0, 0, 12)}.items()
    }
    together = model(**both, lengths=torch.tensor([48, 36]))
    torch.testing.assert_close(together[:, 1, :36], alone[:, 0])
    assert (together[:, 1, 36:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [[0], [1, 0], [0, 0, 0, 0], [3, 0, 0, 0, 4], [200]])
def test_no_text_is_too_short(name: str, counts: list[int]) -> None:
    content = torch.ones(1, sum(counts), dtype=torch.int32)
    size = len(counts)
    logits = segmenter(name)(
        content,
        torch.tensor([counts], dtype=torch.int32),
        torch.zeros(1, size, 3, dtype=torch.int32),
        torch.zeros(1, size, 2),
        torch.tensor([size]),
    )
    assert logits.shape == (1, 1, size)
    assert logits.isfinite().all()


def test_depth_of_a_gap_by_hand() -> None:
    """Similarities 5 3 4 1 2: the peaks around the second gap are 5 and 4, around the fourth 4 and 2."""
    depth, is_valley = _depths(torch.tensor([5.0, 3.0, 4.0, 1.0, 2.0]))
    assert depth.tolist() == [0, 3, 0, 4, 0]
    assert is_valley.tolist() == [False, True, False, True, False]


def test_ranks_by_hand() -> None:
    """In a square of side 3. The corner has three neighbours, of which 1 and 2 are smaller than 3; the centre has 8."""
    similarity = torch.tensor([[3.0, 1.0, 9.0], [2.0, 5.0, 4.0], [8.0, 7.0, 6.0]])
    rank = ranks(similarity, 3)
    assert rank[0, 0] == pytest.approx(2 / 3)
    assert rank[1, 1] == pytest.approx(4 / 8)
    assert rank[0, 1] == 0
    assert rank[2, 0] == 1


def test_the_first_split_makes_the_density_largest() -> None:
    """Two blocks of ones: all 36 cells hold 20 ones, the two blocks of 4 and 2 sentences hold nothing else."""
    rank = torch.block_diag(torch.ones(4, 4), torch.ones(2, 2))
    places, density = splits(rank)
    assert places[0] == 4
    assert sorted(places.tolist()) == [1, 2, 3, 4, 5]
    assert density[:2].tolist() == pytest.approx([20 / 36, 1])


def test_settings_are_checked() -> None:
    with pytest.raises(RequestError, match=r"C99Config.rank_side must be odd and at least 3, got 4"):
        models.build("c99", {"rank_side": 4})
    with pytest.raises(RequestError, match=r"TextTilingConfig.sequence_words must be at least 1, got 0"):
        models.build("texttiling", {"sequence_words": 0})


def test_no_tagger_starts_from_one() -> None:
    tagger = SentenceTagger(SentenceTaggerConfig(buckets=8, vector_size=2, width=2, hidden=4))
    with pytest.raises(RequestError, match="must be a package of a sentence_tagger, got a C99"):
        init_from_tagger(tagger, segmenter("c99"))


@pytest.mark.parametrize("name", NAMES)
def test_the_package_in_the_installation_divides_a_document(name: str) -> None:
    """Two topics, of two alphabets of made-up words, through the task as in a run."""
    found = package.load(f"builtin:{name}", "text_segmenter")
    # Stop words and punctuation take few of the ids, or words that share them would be ignored, too.
    assert 400 < found.weights()["ignored"].sum() < 700
    task = config.from_dict(TextSegmentation, found.task)
    sentences = [f"The {a}{b}{a} and the {b}{a}{c} of {c}{b}{c}." for a in "bdfgk" for b in "aei" for c in "aei"]
    others = [
        f"It was {a}{b}{a}{c} or {c}{b}{a}{b} that {a}{c}{c} them." for a in "lmnrs" for b in "ouy" for c in "ouy"
    ]
    text = " ".join(line.capitalize() for line in (*sentences, *others))
    row = {"data": text.encode(), "format": "object", "label": None}
    prepared = task.prepare(pa.Table.from_pylist([row], INPUT_SCHEMA)).drop(["error"])
    rows = task.encode(task.predict(found.model(), prepared, torch.device("cpu"))).to_pylist()
    starts = [span["start"] for span in rows[0]["paragraphs"]]
    edge = len(" ".join(sentences)) + 1
    # A token sequence of 20 words is about two of these sentences.
    assert min(abs(start - edge) for start in starts) <= 3 * len(others[0])
    assert all(0 <= span["score"] <= 1 for span in rows[0]["paragraphs"])
    assert len(starts) < len(sentences) / 2
