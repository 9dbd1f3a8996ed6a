"""TextTiling: a boundary is where the words of the text before and after it have the least in common (Hearst 1997)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pipeline.config import check
from pipeline.models.documents.lexical import NO_BOUNDARY, LexicalSegmenter, above, check_word_table


@dataclass(frozen=True, kw_only=True)
class TextTilingConfig:
    buckets: int = 65536
    """Number of ids of hashed words. Id 0 is padding."""
    dense_features: int = 28
    """Number of features of a sentence that are plain numbers. They are not looked at."""
    sequence_words: int = 20
    """Number of words of a token sequence, the unit of comparison. Hearst's w."""
    block_sequences: int = 10
    """Number of token sequences on each side that are compared. Hearst's k."""
    smoothing: int = 2
    """Width of the moving average of the similarities, in gaps. 0: none."""
    liberal: bool = False
    """Take depths above mean - deviation, rather than above mean - deviation / 2."""

    def __post_init__(self) -> None:
        check_word_table(self)
        for name in ("sequence_words", "block_sequences"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "smoothing", self.smoothing >= 0, "not be negative")


class TextTiling(LexicalSegmenter):
    """TextTiling by blocks. Words that are ignored count for the length of token sequences, but not as common words."""

    config: TextTilingConfig

    def __init__(self, config: TextTilingConfig) -> None:
        super().__init__(config)

    def logits(
        self, words: Int[Tensor, " t"], sentence: Int[Tensor, " t"], ignored: Bool[Tensor, " t"], length: int
    ) -> Float[Tensor, " s"]:
        """The depth of each gap above the cutoff, at the start of the sentence that is nearest to the gap."""
        found = torch.full((length,), NO_BOUNDARY, device=words.device)
        size = self.config.sequence_words
        sequences = -(-len(words) // size)
        if sequences < 3:
            return found
        place = torch.arange(len(words), device=words.device)
        similarity = _smoothed(self._similarity(words, place // size, ignored, sequences), self.config.smoothing)
        depth, is_valley = _depths(similarity)
        cutoff = float(depth.mean() - depth.std(correction=0) / (1 if self.config.liberal else 2))
        logits = above(depth, cutoff, float(depth.std(correction=0)))
        # The first word of each sentence; a sentence without words begins where the next one does.
        starts = torch.searchsorted(sentence, torch.arange(length, device=words.device))
        gaps = (torch.arange(sequences - 1, device=words.device) + 1) * size
        nearest = _nearest(gaps, starts)
        chosen = is_valley & (nearest > 0)
        return found.scatter_reduce(0, nearest[chosen], logits[chosen], "amax")

    def _similarity(self, words: Tensor, sequence: Tensor, ignored: Tensor, count: int) -> Float[Tensor, " g"]:
        """Cosine similarity of the blocks before and after each gap between two token sequences, (count - 1,)."""
        kinds, kind = words[~ignored].unique(return_inverse=True)
        table = torch.zeros(count + 1, max(1, len(kinds)), device=words.device)
        table.index_put_((sequence[~ignored] + 1, kind), torch.ones(len(kind), device=words.device), accumulate=True)
        sums, gap = table.cumsum(0), torch.arange(1, count, device=words.device)
        reach = self.config.block_sequences
        before = sums[gap] - sums[(gap - reach).clamp(min=0)]
        after = sums[(gap + reach).clamp(max=count)] - sums[gap]
        return functional.cosine_similarity(before, after, dim=-1)


def _smoothed(values: Float[Tensor, " g"], width: int) -> Float[Tensor, " g"]:
    """A moving average over ``width`` gaps before and after, or as many as there are."""
    if width == 0:
        return values
    sums, place = functional.pad(values.double().cumsum(0), (1, 0)), torch.arange(len(values), device=values.device)
    reach = max(1, width // 2)
    low, high = (place - reach).clamp(min=0), (place + reach + 1).clamp(max=len(values))
    return ((sums[high] - sums[low]) / (high - low)).float()


def _depths(similarity: Float[Tensor, " g"]) -> tuple[Float[Tensor, " g"], Bool[Tensor, " g"]]:
    """How deep each gap lies: the height of the peak to the left above it, plus that of the peak to the right. And
    which gaps are valleys: no neighbour is deeper."""
    values = similarity.tolist()
    left, right = list(values), list(values)
    # A peak is reached by climbing as long as the similarity does not fall.
    for place in range(1, len(values)):
        left[place] = left[place - 1] if values[place - 1] >= values[place] else values[place]
    for place in range(len(values) - 2, -1, -1):
        right[place] = right[place + 1] if values[place + 1] >= values[place] else values[place]
    depth = torch.tensor([a + b - 2 * c for a, b, c in zip(left, right, values, strict=True)], device=similarity.device)
    around = functional.pad(depth, (1, 1), value=-1.0)
    return depth, (depth > around[:-2]) & (depth >= around[2:]) & (depth > 0)


def _nearest(places: Int[Tensor, " g"], starts: Int[Tensor, " s"]) -> Int[Tensor, " g"]:
    """The index of the start that is nearest to each place; of two, the earlier one."""
    after = torch.searchsorted(starts, places).clamp(1, max(1, len(starts) - 1)).clamp(max=len(starts) - 1)
    before = (after - 1).clamp(min=0)
    return torch.where(places - starts[before] <= starts[after] - places, before, after)
