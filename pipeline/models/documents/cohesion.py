"""Features for finding changes of topic: how similar the words before and after the start of each sentence are."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_BLOCKS = (1, 2, 3, 5, 8)  # block sizes in sentences: so many before are compared with so many after
_AGO = (1, 3, 10, 20)  # upper edges of the bins for the distance to the previous use of a word, in sentences
_AHEAD = (2, 8, 20)  # the same for the distance to the next use
_BREAK, _LINK = 15, 8  # a chain begins where the previous use is more than 15 sentences ago and the next within 8
_REACHES = (3, 10)  # a word spans the sentences between two uses that are at most so many sentences apart
_FAR = 1 << 30

#: Number of features of a sentence that `block_cosines` and `lexical_chains` return.
BLOCK_COSINES = 3 * (len(_BLOCKS) + 1)
LEXICAL_CHAINS = len(_AGO) + 1 + len(_AHEAD) + 1 + 2 + 2 * len(_REACHES)


def block_cosines(
    sums: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"], lasting: Float[Tensor, "v w"]
) -> Float[Tensor, "b s n"]:
    """Cosine similarity of the text before and the text after the start of each sentence (TextTiling, Hearst 1997).

    For each size in `_BLOCKS`, so many sentences before the start are compared with as many from the start on; one more
    cosine compares the previous sentence with the next. All are computed for three projections of the word vectors:
    by ``lasting``, the first half, and the second half. ``sums`` are the weighted sums of the word vectors of each
    sentence; the mean over the window is subtracted from them first.
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
    """Features of repeated words, a simple form of lexical chains (Morris and Hirst 1991; Galley et al. 2003).

    A word counts once in a sentence, with the weight ``rarity``. The features of each sentence are:

    - the fraction of its words whose previous use falls into each bin of `_AGO`, and whose next use falls into each bin
      of `_AHEAD`;
    - the chains that begin in the sentence, and the chains that end in the previous sentence;
    - the words that are used on both sides of the sentence's start: log(1 + weight), and as a cosine similarity.

    ``ends`` is the end of each sentence in its row of ``words``. ``words`` are indices into ``rarity``; words whose
    rarity is 0 are not counted. Text outside the window is not seen.
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
    ago, ahead = ago[: len(uses)], ahead[: len(uses)]  # padding made them one longer if there are no uses
    counts = [
        torch.ones_like(uses),
        *_between(ago, _AGO),
        *_between(ahead, _AHEAD),
        (ago > _BREAK) & (ahead <= _LINK),
        (ahead > _BREAK) & (ago <= _LINK),
        *((ahead <= reach).int() - (ago <= reach).int() for reach in _REACHES),
    ]
    values = torch.stack(counts, dim=-1) * rarity[word % len(rarity)][:, None]
    # Double precision, so that the running sums return to zero when no word is open any more.
    totals = _sums(values.double(), word // len(rarity) * size + where, rows * size).view(rows, size, -1)
    every, totals = totals[..., :1], totals[..., 1:]
    shares, chains, opened = totals.split([len(_AGO) + len(_AHEAD) + 2, 2, len(_REACHES)], dim=-1)
    # Features at the start of a sentence: the chains that ended in the previous one, and the words still open after it.
    ended, spanning = _sentence_before(chains[..., 1:]), _sentence_before(opened.cumsum(1)).clamp(min=0)
    sizes = [torch.stack(_either_side(every, reach)).prod(0) for reach in _REACHES]
    cosines = spanning / (torch.cat(sizes, dim=-1) + 1e-6).sqrt()
    parts = [shares / (every + 1e-6), chains[..., :1] / 2, ended / 2, torch.log1p(spanning) / 2, cosines]
    return torch.cat(parts, dim=-1).float()


def _between(gaps: Int[Tensor, " n"], edges: tuple[int, ...]) -> list[Tensor]:
    """One mask for each distance bin ``(edges[i-1], edges[i]]``, and one for distances above the last edge."""
    bounds = (0, *edges, _FAR)
    return [(gaps > low) & (gaps <= high) for low, high in itertools.pairwise(bounds)]


def _sums(values: Float[Tensor, "n v"], places: Int[Tensor, " n"], size: int) -> Float[Tensor, "m v"]:
    """Sum the values that have the same place in [0, size). The order of addition is fixed, on a GPU too."""
    order = places.argsort(stable=True)
    offsets = torch.searchsorted(places[order], torch.arange(size, device=places.device))
    # embedding_bag needs at least one row, so a row of zeros is appended.
    table = functional.pad(values, (0, 0, 0, 1))
    return functional.embedding_bag(functional.pad(order, (0, 1), value=len(values)), table, offsets, mode="sum")


def _either_side(values: Float[Tensor, "b s v"], reach: int) -> tuple[Tensor, Tensor]:
    """Sums over ``reach`` sentences before the start of each sentence, and over ``reach`` sentences from it on."""
    size = values.shape[1]
    totals = functional.pad(values.cumsum(1), (0, 0, 1, 0))
    here = torch.arange(size, device=values.device)
    start, end = (here - reach).clamp(min=0), (here + reach).clamp(max=size)
    return totals[:, here] - totals[:, start], totals[:, end] - totals[:, here]


def _sentence_before(values: Float[Tensor, "b s v"]) -> Float[Tensor, "b s v"]:
    return functional.pad(values, (0, 0, 1, 0))[:, :-1]
