"""What holds sentences together, against counting by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.models.documents.cohesion import BLOCK_COSINES, LEXICAL_CHAINS, block_cosines, lexical_chains

AGO = [(1, 1), (2, 3), (4, 10), (11, 20), (21, math.inf)]
AHEAD = [(1, 2), (3, 8), (9, 20), (21, math.inf)]
REACHES = [3, 10]


def test_block_cosines_by_hand() -> None:
    """Four sentences of one topic, then four of another: what stands before and after is least alike in between."""
    topics = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    noise = 0.01 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    sums, lengths, lasting = (topics + noise)[None], torch.tensor([8]), torch.eye(2)
    every = block_cosines(sums, lengths, lasting)[0]
    assert every.shape == (8, BLOCK_COSINES)
    assert BLOCK_COSINES == 18  # in what lasts, and in the first and second half of the vectors:
    found = every[:, :6]  # of the two around a sentence, and of 1, 2, 3, 5 and 8 on either side
    assert not found[0].any()  # nothing stands before the first
    assert (found[4, 1:] < -0.99).all()
    assert (found[[1, 2, 5, 6], 1] > 0.99).all()
    assert (found[2, 4:] < 0.99).all()  # five sentences after reach into the other topic
    assert found[1, 0] > 0.99
    assert found[3, 0] < -0.99
    longer = block_cosines(torch.cat([sums, torch.full((1, 3, 2), 9.0)], dim=1), lengths, lasting)[0]
    torch.testing.assert_close(longer[:8], every)
    # What does not last is projected away, however large it is.
    loud = torch.cat([sums, 100 * torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(1))], dim=-1)
    torch.testing.assert_close(block_cosines(loud, lengths, torch.eye(5)[:, :2])[0, :, :6], found)
    twice = block_cosines(torch.cat([sums, 3 * sums], dim=-1), lengths, torch.eye(4))[0]
    torch.testing.assert_close(twice, torch.cat([found] * 3, dim=-1))


def test_lexical_chains_by_hand() -> None:
    """Word 1 in sentences 0, 1 and 3; word 2 in 0 and 2; word 3 in 0 only; word 4, half as much, in 2."""
    words = torch.tensor([[1, 2, 3, 2, 1, 2, 4, 1, 0, 0]])
    ends = torch.tensor([[4, 5, 7, 8]])
    rarity = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.5])
    found = lexical_chains(words, rarity, ends)[0]
    assert found.shape == (4, LEXICAL_CHAINS)
    third = 1 / 3
    # Last used 1, up to 3, up to 10, up to 20 sentences ago, or farther or never.
    shares = [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 2 * third, 0, 0, third], [0, 1, 0, 0, 0]]
    torch.testing.assert_close(found[:, :5], torch.tensor(shares))
    # Used again within 2, 8, 20 sentences, or later or never.
    shares = [[2 * third, 0, 0, third], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    torch.testing.assert_close(found[:, 5:9], torch.tensor(shares))
    # Two chains begin at once; that of word 2 ends in sentence 2, which is told at the next. All are halved.
    torch.testing.assert_close(found[:, 9:11], torch.tensor([[1, 0], [0, 0], [0, 0], [0, 0.5]]))
    # At sentence 1 words 1 and 2 are used on both sides, at 2 both still, at 3 word 1.
    torch.testing.assert_close(found[:, 11], torch.tensor([0, 2, 2, 1]).log1p() / 2)
    sides = torch.tensor([1, 3 * 3.5, 4 * 2.5, 5.5 * 1]).sqrt()
    torch.testing.assert_close(found[:, 13], torch.tensor([0, 2, 2, 1]) / sides)
    torch.testing.assert_close(found[:, [11, 13]], found[:, [12, 14]])


@pytest.mark.parametrize("seed", range(5))
def test_lexical_chains_against_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 6, (3, 60), generator=generator)
    counts[1, 20:] = 0  # a shorter window
    counts[2] = 0  # one without words
    ends = counts.cumsum(1)
    words = torch.randint(0, 30, (3, int(ends.max()) + 1), generator=generator)
    rarity = torch.rand(30, generator=generator)
    rarity[[0, 7]] = 0
    found = lexical_chains(words, rarity, ends)
    for row in range(3):
        expected = torch.tensor(plainly(words[row].tolist(), rarity.tolist(), ends[row].tolist()))
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)
        alone = lexical_chains(words[row, None], rarity, ends[row, None])[0]
        torch.testing.assert_close(alone, found[row])


def plainly(words: list[int], rarity: list[float], ends: list[int]) -> list[list[float]]:
    """`lexical_chains` of one window."""
    sets = [{word for word in words[start:end] if rarity[word]} for start, end in zip([0, *ends], ends, strict=False)]
    size = len(sets)

    def ago(word: int, here: int) -> float:
        return next((here - s for s in range(here - 1, -1, -1) if word in sets[s]), math.inf)

    def ahead(word: int, here: int) -> float:
        return next((s - here for s in range(here + 1, size) if word in sets[s]), math.inf)

    def weigh(some: set[int]) -> float:
        return math.fsum(rarity[word] for word in some)

    def share(some: set[int], all_: set[int]) -> float:
        return weigh(some) / weigh(all_) if all_ else 0.0

    rows = []
    for here, own in enumerate(sets):
        before = sets[here - 1] if here else set()
        row = [share({word for word in own if low <= ago(word, here) <= high}, own) for low, high in AGO]
        row += [share({word for word in own if low <= ahead(word, here) <= high}, own) for low, high in AHEAD]
        row.append(weigh({word for word in own if ago(word, here) > 15 and ahead(word, here) <= 8}) / 2)
        row.append(weigh({word for word in before if ahead(word, here - 1) > 15 and ago(word, here - 1) <= 8}) / 2)
        both = []
        for reach in REACHES:
            pairs = ((s, word) for s in range(here) for word in sets[s])
            both.append(math.fsum(rarity[w] for s, w in pairs if s + ahead(w, s) >= here and ahead(w, s) <= reach))
        row += [math.log1p(value) / 2 for value in both]
        for reach, value in zip(REACHES, both, strict=True):
            left, right = (
                math.fsum(weigh(sets[s]) for s in part)
                for part in (range(max(0, here - reach), here), range(here, min(size, here + reach)))
            )
            row.append(value / math.sqrt(left * right + 1e-6))
        rows.append(row)
    return rows
