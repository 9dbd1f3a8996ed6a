"""The sentence tagger: padding is invisible, the settings are checked, and it learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.models import MODELS
from pipeline.models.documents.sentence_tagger import (
    _FARTHEST,
    SentenceTagger,
    SentenceTaggerConfig,
    _Block,
    init_from_tagger,
)

SMALL = SentenceTaggerConfig(
    buckets=64,
    dense_features=2,
    vector_size=6,
    width=8,
    hidden=8,
    dropout=0.0,
    recurrent_members=1,
    attention_members=1,
    attention_heads=2,
)
RECURRENT = replace(SMALL, recurrent_members=2, attention_members=0)
ATTENTION = replace(SMALL, recurrent_members=0, attention_members=2)
BOTH_KINDS = pytest.mark.parametrize("config", [RECURRENT, ATTENTION], ids=["recurrent", "attention"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take most of the time of a small model on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def window(sentences: int, seed: int) -> dict[str, torch.Tensor]:
    """One window of sentences that have 0 to 4 ids each."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 5, (1, sentences), generator=generator, dtype=torch.int32)
    total = int(counts.sum())
    return {
        "content": torch.randint(1, 64, (1, total), generator=generator, dtype=torch.int32),
        "counts": counts,
        "frame": torch.randint(1, 64, (1, sentences, 3), generator=generator, dtype=torch.int32),
        "dense": torch.rand(1, sentences, 2, generator=generator),
        "lengths": torch.tensor([sentences]),
    }


def padded(windows: list[dict[str, torch.Tensor]], extra: int = 0) -> dict[str, torch.Tensor]:
    tokens = max(w["content"].shape[1] for w in windows) + extra
    sentences = max(w["counts"].shape[1] for w in windows) + extra

    def fill(name: str, pad: tuple[int, ...]) -> torch.Tensor:
        sizes = [w[name].shape[1] for w in windows]
        most = tokens if name == "content" else sentences
        rows = [F.pad(w[name], (*pad, 0, most - n)) for w, n in zip(windows, sizes, strict=True)]
        return torch.cat(rows)

    batch = {"content": fill("content", ()), "counts": fill("counts", ())}
    batch |= {"frame": fill("frame", (0, 0)), "dense": fill("dense", (0, 0))}
    return batch | {"lengths": torch.cat([w["lengths"] for w in windows])}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_window_does_not_depend_on_its_batch(layers: int) -> None:
    torch.manual_seed(0)
    model = SentenceTagger(replace(SMALL, recurrent_layers=layers, attention_layers=layers)).eval()
    windows = [window(sentences, seed) for seed, sentences in enumerate([5, 1, 17, 9])]
    alone = [model(**w)[:, 0] for w in windows]
    for extra in (0, 3):
        together = model(**padded(windows, extra))
        for row, expected in enumerate(alone):
            sentences = expected.shape[1]
            torch.testing.assert_close(together[:, row, :sentences], expected, atol=1e-6, rtol=1e-5)
            assert not together[:, row, sentences:].any()


@BOTH_KINDS
def test_both_directions_and_every_input_matter(config: SentenceTaggerConfig) -> None:
    torch.manual_seed(0)
    model = SentenceTagger(config).eval()
    with torch.no_grad():  # tables and vectors are nearly zero, and so is their influence
        model.vectors *= 50
        for member in model.members:
            member.table.weight *= 50
    base = window(6, 3)
    base["counts"][:] = 2
    base["content"] = torch.arange(1, 13, dtype=torch.int32)[None]
    logits = model(**base)
    for name, place in (("content", (0, 0)), ("content", (0, 11)), ("frame", (0, 5, 0)), ("dense", (0, 0, 1))):
        changed = {key: value.clone() for key, value in base.items()}
        changed[name][place] += 7
        assert ((model(**changed) - logits).abs() > 1e-6).all(), name


def test_what_words_say_by_hand() -> None:
    model = SentenceTagger(SMALL).eval()
    vectors, weights = torch.zeros(64, 6), torch.zeros(64)
    for word in (3, 5, 7, 9):
        vectors[word], weights[word] = torch.arange(6.0) + word, word / 8
    model.set_vectors(vectors, weights, torch.eye(6))
    content, counts = torch.tensor([[3, 5, 9, 1], [7, 0, 0, 0]]), torch.tensor([[3, 0, 1], [1, 0, 0]])
    lengths = torch.tensor([3, 1])
    words = model._words(content, counts, lengths, None)
    mean = (vectors[3] * 3 + vectors[5] * 5 + vectors[9] * 9) / 17
    nothing = torch.zeros(6)
    torch.testing.assert_close(words.mean[0], torch.stack([mean, nothing, nothing]))  # 1 is an unknown word
    torch.testing.assert_close(words.mean[1], torch.stack([vectors[7], nothing, nothing]))
    edges = words.edges.view(2, 3, 5, 6)
    torch.testing.assert_close(edges[0, 0], vectors[[3, 5, 9, 9, 5]])
    assert not edges[0, 1:].any()
    torch.testing.assert_close(edges[1, 0], torch.stack([vectors[7], nothing, nothing, vectors[7], nothing]))
    # Words that are not kept count for nothing but cohesion.
    kept = torch.tensor([[True, False, True, True], [False] * 4])
    fewer = model._words(content, counts, lengths, kept)
    torch.testing.assert_close(fewer.mean[0, 0], (vectors[3] * 3 + vectors[9] * 9) / 12)
    torch.testing.assert_close(fewer.edges.view(2, 3, 5, 6)[0, 0], vectors[[3, 1, 9, 9, 1]])
    assert not fewer.mean[1].any()
    assert fewer.ids.tolist() == [[3, 0, 9, 1, 0], [0] * 5]
    assert torch.equal(fewer.cohesion, words.cohesion)


def test_the_mean_of_a_bag_is_what_it_says() -> None:
    model = SentenceTagger(SMALL).eval()
    content, counts = torch.tensor([[3, 5, 9, 0], [7, 0, 0, 0]]), torch.tensor([[2, 0, 1], [1, 0, 0]])
    member: Any = model.members[0]
    # Stored at a scale of 0.02, with a gain of 5.
    table = member.table.weight * 0.1
    bags = member._bags(model._words(content, counts, torch.tensor([3, 1]), None))
    torch.testing.assert_close(bags[0], torch.stack([(table[3] + table[5]) / 2, torch.zeros(8), table[9]]))
    torch.testing.assert_close(bags[1], torch.stack([table[7], torch.zeros(8), torch.zeros(8)]))


def test_what_words_say_does_not_depend_on_precision() -> None:
    model, batch = SentenceTagger(SMALL).eval(), padded([window(30, 0), window(9, 1)])
    found = []
    member = model.members[0]
    member.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    for name in ("mean", "edges", "cohesion"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_no_words_at_all() -> None:
    empty = {
        "content": torch.zeros(2, 0, dtype=torch.int32),
        "counts": torch.zeros(2, 3, dtype=torch.int32),
        "frame": torch.ones(2, 3, 4, dtype=torch.int32),
        "dense": torch.zeros(2, 3, 2),
        "lengths": torch.tensor([3, 1]),
    }
    assert torch.isfinite(SentenceTagger(SMALL).eval()(**empty)).all()


@pytest.mark.parametrize("kind", ["recurrent", "attention"])
def test_members_differ(kind: str) -> None:
    torch.manual_seed(0)
    other = "attention" if kind == "recurrent" else "recurrent"
    model = SentenceTagger(replace(SMALL, **{f"{kind}_members": 3, f"{other}_members": 0}, dropout=0.5))
    batch = padded([window(sentences, seed) for seed, sentences in enumerate([5, 9])])
    logits = model(**batch)
    assert logits.shape == (3, 2, 9)
    assert not torch.allclose(logits[0], logits[1])
    # With the same weights they still drop other values.
    for member in model.members[1:]:
        member.load_state_dict(model.members[0].state_dict())
    assert torch.equal(*model(**batch)[:2])
    first, second, third = model(**batch, seeds=torch.tensor([7, 8]))
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_what_a_window_loses_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    model = SentenceTagger(replace(SMALL, dropout=0.5))
    windows = [window(9, seed) for seed in range(4)]
    seeds = torch.arange(4)
    together = model(**padded(windows), seeds=seeds)
    for half in (slice(0, 2), slice(2, 4)):
        apart = model(**padded(windows[half]), seeds=seeds[half])
        torch.testing.assert_close(together[:, half], apart, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("config", "steps"), [(RECURRENT, 60), (ATTENTION, 120)], ids=["recurrent", "attention"])
def test_it_learns_a_tiny_set(config: SentenceTaggerConfig, steps: int) -> None:
    torch.manual_seed(0)
    model = SentenceTagger(config)
    batch = padded([window(sentences, seed) for seed, sentences in enumerate([12, 8])])
    truth = torch.randint(0, 2, batch["counts"].shape, generator=torch.Generator().manual_seed(1)).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(**batch).mean(0), truth).backward()
        optimizer.step()
    inside = torch.arange(12) < batch["lengths"][:, None]
    assert ((model(**batch).mean(0) > 0) == (truth > 0))[inside].all()


def test_starting_from_another_tagger() -> None:
    first, second = SentenceTagger(SMALL), SentenceTagger(SMALL)
    assert init_from_tagger(first, second) == list(second.state_dict())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    other = SentenceTagger(replace(SMALL, hidden=16))
    with pytest.raises(RequestError, match=r"SentenceTaggerConfig.hidden must be the other tagger's 16, got 8"):
        init_from_tagger(first, other)
    for other in (RECURRENT, replace(SMALL, attention_heads=4)):  # heads share out the same weights in another way
        with pytest.raises(RequestError, match=r"must be the other tagger's"):
            init_from_tagger(first, SentenceTagger(other))
    init_from_tagger(first, SentenceTagger(replace(SMALL, dropout=0.5)))


def test_attention_by_hand() -> None:
    """Sentences see each other as far as the bias lets them, and never what is not of their window."""
    torch.manual_seed(0)
    block = _Block(4, 2).eval()
    x, inside = torch.randn(1, 5, 4), torch.tensor([True, True, True, True, False])
    place = torch.arange(5)
    distance = place - place[:, None] + _FARTHEST
    found = block(x, distance, inside)
    normal = block.normal(x)
    query, key, value = block.projections(normal).view(5, 3, 2, 2).unbind(1)
    seen = torch.zeros(5, 2, 2)
    for here in range(5):
        for head in range(2):
            logits = (query[here, head] * key[:4, head]).sum(-1) / 2**0.5
            logits -= torch.tensor([1.0, 0.05])[head] * (torch.arange(4) - here).abs()
            seen[here, head] = (logits.softmax(0)[:, None] * value[:4, head]).sum(0)
    expected = x + block.joined(seen.flatten(1))
    torch.testing.assert_close(found, expected + block.within(block.normal_within(expected)))


def test_attention_counts_what_is_far_alike() -> None:
    torch.manual_seed(0)
    model = SentenceTagger(replace(ATTENTION, attention_layers=1))
    size = 2 * _FARTHEST + 10
    model(**window(size, 0)).sum().backward()
    grad = model.members[0].context.blocks[0].bias.grad
    assert grad.shape == (2, 2 * _FARTHEST + 1)
    assert (grad != 0).all()


def test_settings_are_checked() -> None:
    assert MODELS["sentence_tagger"] == (SentenceTaggerConfig, SentenceTagger)
    with pytest.raises(RequestError, match=r"SentenceTaggerConfig.dropout must be in \[0, 1\), got 1.0"):
        SentenceTaggerConfig(dropout=1.0)
    with pytest.raises(RequestError, match=r"SentenceTaggerConfig.recurrent_layers must be at least 1, got 0"):
        SentenceTaggerConfig(recurrent_layers=0)
    with pytest.raises(RequestError, match=r"SentenceTaggerConfig.vector_size must be at least 2, got 1"):
        SentenceTaggerConfig(vector_size=1)
    with pytest.raises(RequestError, match=r"SentenceTaggerConfig.recurrent_members must not be negative, got -1"):
        SentenceTaggerConfig(recurrent_members=-1)
    rule = "SentenceTaggerConfig.attention_members must not be negative, nor 0 without recurrent_members, got 0"
    with pytest.raises(RequestError, match=rule):
        SentenceTaggerConfig(recurrent_members=0, attention_members=0)
    rule = r"SentenceTaggerConfig.attention_heads must divide the hidden units \(256\), got 3"
    with pytest.raises(RequestError, match=rule):
        SentenceTaggerConfig(attention_members=1, attention_heads=3)
    assert SentenceTaggerConfig(attention_heads=3, attention_members=0).recurrent_members
