"""Paragraph boundaries in a sequence of sentences: hashed n-grams, a recurrent network, one logit for each sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pipeline.config import check


@dataclass(frozen=True, kw_only=True)
class SentenceTaggerConfig:
    buckets: int = 65536
    """Rows of the table of hashed features; row 0 is padding."""
    dense_features: int = 14
    """Numbers of a sentence that are not hashed."""
    width: int = 64
    """Size of a feature's embedding."""
    hidden: int = 128
    """Units of the recurrent network, in each direction."""
    layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.3
    """Part of a sentence's values that is dropped in training."""

    def __post_init__(self) -> None:
        check(self, "buckets", self.buckets >= 2, "be at least 2")
        for name in ("dense_features", "width", "hidden", "layers"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")


class SentenceTagger(nn.Module):
    """Sentence vectors from bags of hashed n-grams (Joulin et al. 2016, fastText), put into context by a bidirectional
    GRU, as in Koshorek et al. (2018, text segmentation as a supervised task).

    Windows of a batch may be of different lengths; what is said of one does not depend on the others.
    """

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.content = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        self.frame = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        for table in (self.content, self.frame):
            nn.init.normal_(table.weight, std=0.5)
            with torch.no_grad():
                table.weight[0] = 0
        inputs = 2 * config.width + config.dense_features
        self.sentence = nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden))
        self.context = nn.GRU(
            config.hidden,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        joined = 3 * config.hidden
        self.head = nn.Sequential(
            nn.Linear(joined, config.hidden), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, 1)
        )

    def forward(
        self,
        content: Int[Tensor, "b t"],
        counts: Int[Tensor, "b s"],
        frame: Int[Tensor, "b s f"],
        dense: Float[Tensor, "b s v"],
        lengths: Int[Tensor, " b"],
    ) -> Float[Tensor, "b s"]:
        """Logits that a paragraph begins at each sentence; 0 at padding.

        ``content`` holds the ids of a window's sentences one after the other, ``counts`` how many each sentence has,
        ``lengths`` how many sentences the window has, at least one. Ids, counts and numbers of padding are 0.
        """
        batch, size = counts.shape
        vectors = torch.cat([self._bags(content, counts), self._frames(frame), dense], dim=-1)
        sentence = self.dropout(self.sentence(vectors))
        packed = pack_padded_sequence(sentence, lengths.cpu(), batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.context(packed)[0], batch_first=True, total_length=size)
        logits = self.head(self.dropout(torch.cat([sentence, context], dim=-1)))[..., 0]
        inside = torch.arange(size, device=lengths.device) < lengths[:, None]
        return torch.where(inside, logits, torch.zeros_like(logits)).view(batch, size)

    def _bags(self, content: Tensor, counts: Tensor) -> Tensor:
        batch, tokens = content.shape
        # Bags of a window start in its own row; its last bag also takes the padding, which the mean leaves out.
        offsets = counts.cumsum(1) - counts + tokens * torch.arange(batch, device=counts.device)[:, None]
        bags = self.content(content.reshape(-1), offsets.reshape(-1).to(content.dtype))
        return bags.view(*counts.shape, -1)

    def _frames(self, frame: Tensor) -> Tensor:
        bags = self.frame(frame.reshape(-1, frame.shape[-1]))
        return bags.view(*frame.shape[:2], -1) * frame.shape[-1] ** 0.5
