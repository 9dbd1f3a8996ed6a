"""C99: divides a text where sentences are alike within the parts and unlike between them (Choi 2000)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pipeline.config import check
from pipeline.models.documents.lexical import NO_BOUNDARY, LexicalSegmenter, above, check_word_table

_SMOOTHING = (1.0, 2.0, 4.0, 8.0, 4.0, 2.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class C99Config:
    buckets: int = 65536
    """Number of ids of hashed words. Id 0 is padding."""
    dense_features: int = 28
    """Number of features of a sentence that are plain numbers. They are not looked at."""
    rank_side: int = 11
    """Side of the square of neighbours within which a similarity gets its rank; odd."""
    deviations: float = 1.2
    """As many splits are accepted as gain more density than the mean plus so many standard deviations. Choi's c."""

    def __post_init__(self) -> None:
        check_word_table(self)
        check(self, "rank_side", self.rank_side >= 3 and self.rank_side % 2 == 1, "be odd and at least 3")


class C99(LexicalSegmenter):
    """C99 with the number of segments unknown. Time and memory are quadratic in the sentences of a window, which the
    task bounds."""

    config: C99Config

    def __init__(self, config: C99Config) -> None:
        super().__init__(config)

    def logits(
        self, words: Int[Tensor, " t"], sentence: Int[Tensor, " t"], ignored: Bool[Tensor, " t"], length: int
    ) -> Float[Tensor, " s"]:
        """Earlier splits have larger logits; those that Choi's rule accepts have at least 0."""
        found = torch.full((length,), NO_BOUNDARY, device=words.device)
        if length < 3:
            return found
        places, density = splits(ranks(_similarity(words, sentence, ignored, length), self.config.rank_side))
        gains = _smooth(density.diff())
        cutoff = float(gains.mean() + self.config.deviations * gains.std(correction=0))
        # As many splits are accepted as there are gains above the cutoff. A split cannot be taken without those before
        # it, so the largest gain counts for the first, and so on.
        ordered = gains.sort(descending=True).values
        found[places] = above(ordered, cutoff, float(gains.std(correction=0))).to(found)
        return found


def _similarity(words: Tensor, sentence: Tensor, ignored: Tensor, length: int) -> Float[Tensor, "s s"]:
    """Cosine similarity of the word counts of every two sentences; 0 for a sentence without words."""
    kinds, kind = words[~ignored].unique(return_inverse=True)
    table = torch.zeros(length, max(1, len(kinds)), device=words.device)
    table.index_put_((sentence[~ignored], kind), torch.ones(len(kind), device=words.device), accumulate=True)
    unit = functional.normalize(table, dim=-1)
    return unit @ unit.T


def ranks(similarity: Float[Tensor, "s s"], side: int) -> Float[Tensor, "s s"]:
    """The fraction of the neighbours of each similarity, in a square of so many sentences, that are smaller."""
    size, reach = len(similarity), side // 2
    around = functional.pad(similarity, (reach,) * 4, value=torch.inf)
    lower = torch.zeros_like(similarity, dtype=torch.int16)
    for row in range(side):
        for column in range(side):
            lower += similarity > around[row : row + size, column : column + size]
    place = torch.arange(size, device=similarity.device)
    inside = (place + reach + 1).clamp(max=size) - (place - reach).clamp(min=0)
    return lower / (inside[:, None] * inside - 1).clamp(min=1)


def splits(rank: Float[Tensor, "s s"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n+1"]]:
    """Divide [0, s) again and again where it makes the mean rank within the parts largest, until all parts are single.

    Returns the places in the order in which they were chosen (n = s - 1), and the mean rank before and after each.
    """
    size = len(rank)
    sums = functional.pad(rank.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    diagonal = sums.diagonal()
    place = torch.arange(size, device=rank.device)
    start, end = torch.zeros_like(place), torch.full_like(place, size)  # of the part that each place is in

    def within(low: Tensor, high: Tensor) -> Tensor:
        return diagonal[high] - sums[low, high] - sums[high, low] + diagonal[low]

    def changes(at: slice) -> tuple[Tensor, Tensor]:
        low, here, high = start[at], place[at], end[at]
        area = -2.0 * (here - low) * (high - here)
        return within(low, here) + within(here, high) - within(low, high), area

    total, area = float(sums[-1, -1]), float(size * size)
    more, less = changes(slice(None))
    open_places = place > 0
    chosen, density = [], [total / area]
    for _ in range(size - 1):
        values = torch.where(open_places, (total + more) / (area + less), -torch.inf)
        split = int(values.argmax())
        total, area = total + float(more[split]), area + float(less[split])
        low, high = int(start[split]), int(end[split])
        open_places[split] = False
        end[low:split], start[split:high] = split, split
        at = slice(low, high)
        more[at], less[at] = changes(at)
        chosen.append(split)
        density.append(total / area)
    return torch.tensor(chosen, device=rank.device), torch.tensor(density, device=rank.device)


def _smooth(gains: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A weighted moving average; at the ends, over the weights that are inside."""
    weights, reach = gains.new_tensor(_SMOOTHING), len(_SMOOTHING) // 2
    padded, ones = (functional.pad(values, (reach, reach))[None, None] for values in (gains, torch.ones_like(gains)))
    return (functional.conv1d(padded, weights[None, None]) / functional.conv1d(ones, weights[None, None]))[0, 0]
