"""How what stands before and after the start of each sentence belongs together: numbers that tell where the topic
changes, from the words alone."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_BLOCKS = (1, 2, 3, 5, 8)  # sentences before and after that are compared
_AGO = (1, 3, 10, 20)  # sentences since a word was last used, up to which it is counted apart
_AHEAD = (2, 8, 20)  # and until it is used again
_BREAK, _LINK = 15, 8  # a chain begins where a word was not used for so long, and is used again so soon
_REACHES = (3, 10)  # sentences that two uses of a word may be apart, for them to hold together what is between
_FAR = 1 << 30

#: Numbers of a sentence in `block_cosines` and in `lexical_chains`.
BLOCK_COSINES = 3 * (len(_BLOCKS) + 1)
LEXICAL_CHAINS = len(_AGO) + 1 + len(_AHEAD) + 1 + 2 + 2 * len(_REACHES)


def block_cosines(
    sums: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"], lasting: Float[Tensor, "v w"]
) -> Float[Tensor, "b s n"]:
    """Cosines of what stands before and after the start of each sentence: of the two sentences around it, and of as
    many as `_BLOCKS` says (TextTiling, Hearst 1997); in what lasts, and in either half of the vectors.

    ``sums`` are the weighted vectors of each sentence's words; what all of the window has in common is taken away.
    """
    size, half = sums.shape[1], (sums.shape[2] + 1) // 2
    here = torch.arange(size, device=sums.device)
    inside = (here < lengths[:, None])[..., None]
    centred = torch.where(inside, sums - (sums * inside).sum(1, keepdim=True) / lengths[:, None, None], 0.0)
    cosines = []
    for seen in (centred @ lasting, centred[..., :half], centred[..., half:]):
        around = functional.pad(seen, (0, 0, 1, 1))
        cosines.append(functional.cosine_similarity(around[:, :-2], around[:, 2:], dim=-1))
        for block in _BLOCKS:
            cosines.append(functional.cosine_similarity(*_either_side(seen, block), dim=-1))
    return torch.stack(cosines, dim=-1)


def lexical_chains(
    words: Int[Tensor, "b t"], rarity: Float[Tensor, " w"], ends: Int[Tensor, "b s"]
) -> Float[Tensor, "b s n"]:
    """Which words go on and which begin (lexical chains, Morris and Hirst 1991, of a word's own repetitions, as in
    Galley et al. 2003), each counted once in a sentence and as much as its ``rarity``:

    - the shares of the sentence's words that were last used so many sentences ago, and that are used again so soon;
    - chains that begin in the sentence, and that end in the one before;
    - the words that are used on both sides of the sentence's start, in nats of their number, and as a cosine.

    ``ends`` tells where each sentence ends in its row of ``words``, which are places in ``rarity``; words of rarity 0
    are not counted. Nothing is known of what is outside of the window.
    """
    rows, size = ends.shape
    tokens = torch.arange(words.shape[1], device=ends.device).repeat(rows, 1)
    sentence = torch.searchsorted(ends, tokens, right=True)
    counted = (sentence < size) & (rarity[words] > 0)
    row = torch.arange(rows, device=ends.device)[:, None]
    uses = ((row * len(rarity) + words) * size + sentence)[counted].unique()
    word, where = uses // size, uses % size
    gap = torch.where(word[1:] == word[:-1], where[1:] - where[:-1], _FAR)
    ago, ahead = functional.pad(gap, (1, 0), value=_FAR), functional.pad(gap, (0, 1), value=_FAR)
    ago, ahead = ago[: len(uses)], ahead[: len(uses)]  # of no uses too
    counts = [
        torch.ones_like(uses),
        *_between(ago, _AGO),
        *_between(ahead, _AHEAD),
        (ago > _BREAK) & (ahead <= _LINK),
        (ahead > _BREAK) & (ago <= _LINK),
        *((ahead <= reach).int() - (ago <= reach).int() for reach in _REACHES),
    ]
    values = torch.stack(counts, dim=-1) * rarity[word % len(rarity)][:, None]
    # In double precision: where nothing is open any more, running sums must come back to nothing.
    totals = _sums(values.double(), word // len(rarity) * size + where, rows * size).view(rows, size, -1)
    every, totals = totals[..., :1], totals[..., 1:]
    shares, chains, opened = totals.split([len(_AGO) + len(_AHEAD) + 2, 2, len(_REACHES)], dim=-1)
    # What ends in a sentence, and what is still open after it, is told at the next one.
    ended, spanning = _sentence_before(chains[..., 1:]), _sentence_before(opened.cumsum(1)).clamp(min=0)
    sizes = [torch.stack(_either_side(every, reach)).prod(0) for reach in _REACHES]
    cosines = spanning / (torch.cat(sizes, dim=-1) + 1e-6).sqrt()
    parts = [shares / (every + 1e-6), chains[..., :1] / 2, ended / 2, torch.log1p(spanning) / 2, cosines]
    return torch.cat(parts, dim=-1).float()


def _between(gaps: Int[Tensor, " n"], edges: tuple[int, ...]) -> list[Tensor]:
    """Those up to each edge and farther than the one before; at last those beyond all."""
    bounds = (0, *edges, _FAR)
    return [(gaps > low) & (gaps <= high) for low, high in itertools.pairwise(bounds)]


def _sums(values: Float[Tensor, "n v"], places: Int[Tensor, " n"], size: int) -> Float[Tensor, "m v"]:
    """Of the values at each place in [0, size); always added in the same order, on a GPU too."""
    order = places.argsort(stable=True)
    offsets = torch.searchsorted(places[order], torch.arange(size, device=places.device))
    # A last row of zeros, since there may be no values.
    table = functional.pad(values, (0, 0, 0, 1))
    return functional.embedding_bag(functional.pad(order, (0, 1), value=len(values)), table, offsets, mode="sum")


def _either_side(values: Float[Tensor, "b s v"], reach: int) -> tuple[Tensor, Tensor]:
    """Sums over as many sentences before the start of each one, and from there on."""
    size = values.shape[1]
    totals = functional.pad(values.cumsum(1), (0, 0, 1, 0))
    here = torch.arange(size, device=values.device)
    start, end = (here - reach).clamp(min=0), (here + reach).clamp(max=size)
    return totals[:, here] - totals[:, start], totals[:, end] - totals[:, here]


def _sentence_before(values: Float[Tensor, "b s v"]) -> Float[Tensor, "b s v"]:
    return functional.pad(values, (0, 0, 1, 0))[:, :-1]
