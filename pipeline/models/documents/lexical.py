"""What segmenters without weights share: they compare the words of sentences, and have learned nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.config import check

#: Log-odds of a sentence at which a method sees no boundary at all.
NO_BOUNDARY = -12.0
_STEEPNESS = 2.0


def check_word_table(config: Any) -> None:
    """`RequestError` unless the settings that all these segmenters have are in their ranges."""
    check(config, "buckets", config.buckets >= 2, "be at least 2")
    check(config, "dense_features", config.dense_features >= 1, "be at least 1")


class LexicalSegmenter(nn.Module, ABC):
    """Finds boundaries by the words of a window alone. There is nothing to train.

    The result has the form of `SentenceTagger.forward` with one member, so a package of such a segmenter is used as one
    of a tagger. A logit of at least 0 is a boundary by the method's own rule.
    """

    ignored: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("ignored", torch.zeros(config.buckets, dtype=torch.bool))

    def ignore(self, ids: Int[Tensor, " n"]) -> None:
        """Ignore these ids, which are those of stop words and of punctuation."""
        self.ignored[ids.long()] = True

    def forward(
        self,
        content: Int[Tensor, "b t"],
        counts: Int[Tensor, "b s"],
        frame: Int[Tensor, "b s f"],
        dense: Float[Tensor, "b s v"],
        lengths: Int[Tensor, " b"],
        kept: Bool[Tensor, "b t"] | None = None,
        seeds: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "m b s"]:
        """Logits as those of `SentenceTagger.forward`. Only the words are looked at."""
        logits = torch.zeros(counts.shape, device=content.device)
        for row, length in enumerate(lengths.tolist()):
            sizes = counts[row, :length].long()
            ids = content[row, : int(sizes.sum())].long()
            sentence = torch.repeat_interleave(torch.arange(length, device=ids.device), sizes)
            logits[row, :length] = self.logits(ids, sentence, self.ignored[ids], length)
        return logits[None]

    @abstractmethod
    def logits(
        self, words: Int[Tensor, " t"], sentence: Int[Tensor, " t"], ignored: Bool[Tensor, " t"], length: int
    ) -> Float[Tensor, " s"]:
        """The logits of one window: ``words`` in the order of the text, the ``sentence`` that each is in, and which of
        them are ``ignored``. ``length`` is the number of sentences."""


def above(values: Float[Tensor, " n"], cutoff: float, scale: float) -> Float[Tensor, " n"]:
    """Logits that are 0 at the cutoff and grow with the value, by 2 for each ``scale``; between -10 and 10."""
    if scale == 0 or not math.isfinite(scale):
        return torch.zeros_like(values)
    return (_STEEPNESS * (values - cutoff) / scale).clamp(-10, 10)
