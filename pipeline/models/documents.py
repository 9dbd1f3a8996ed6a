"""Paragraph boundaries in a sequence of sentences: hashed n-grams, recurrent networks, one logit for each sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError

# Embeddings are stored at this scale, so Adam moves them that much more slowly than other weights. A step of Adam does
# not grow with how often a row is used: at full speed the rows of rare words learn the training books by heart, and the
# F1 on unseen books falls from the second epoch on (0.66 to 0.59; with the scale it reaches 0.69).
_TABLE_SPEED = 0.02
_TABLE_STD = 0.02
_CONTENT_GAIN = 5.0  # the square root of a usual number of words: a mean of n has that much less spread
_MEMBER_PLACES = 1000  # members of an ensemble drop other values: more than the places of dropout in one of them


@dataclass(frozen=True, kw_only=True)
class SentenceTaggerConfig:
    buckets: int = 65536
    """Rows of the table of hashed features; row 0 is padding."""
    dense_features: int = 14
    """Numbers of a sentence that are not hashed."""
    width: int = 64
    """Size of a feature's embedding."""
    hidden: int = 256
    """Units of each recurrent network, in each direction."""
    layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.4
    """Part of a sentence's values that is dropped in training."""
    members: int = 2
    """Networks that differ by their first weights; the mean of their logits is the answer."""

    def __post_init__(self) -> None:
        check(self, "buckets", self.buckets >= 2, "be at least 2")
        for name in ("dense_features", "width", "hidden", "layers", "members"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")


class SentenceTagger(nn.Module):
    """An ensemble (Hansen and Salamon 1990): tables of embeddings stay near their random start, so each member sees
    another random projection of the words, and the mean of two is better on unseen books than either (cross-entropy
    0.405 for 0.410 and 0.407, and 0.357 for 0.360 and 0.364, on two groups of books); a third one added nothing clear.

    Windows of a batch may be of different lengths; what is said of one does not depend on the others.
    """

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(_Member(config, number) for number in range(config.members))

    def forward(
        self,
        content: Int[Tensor, "b t"],
        counts: Int[Tensor, "b s"],
        frame: Int[Tensor, "b s f"],
        dense: Float[Tensor, "b s v"],
        lengths: Int[Tensor, " b"],
        seeds: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "m b s"]:
        """Every member's logits that a paragraph begins at each sentence; 0 at padding.

        Their mean over members is the answer. Members are trained apart: trained on it, they would lean on each other.

        ``content`` holds the ids of a window's sentences one after the other, ``counts`` how many each sentence has,
        ``lengths`` how many sentences the window has, at least one. Ids, counts and numbers of padding are 0.
        ``seeds`` turn dropout on: what a window loses is a function of its seed, whatever worker has it.
        """
        return torch.stack([member(content, counts, frame, dense, lengths, seeds) for member in self.members])


class _Member(nn.Module):
    """Sentence vectors from bags of hashed n-grams (Joulin et al. 2016, fastText), put into context by a bidirectional
    GRU, as in Koshorek et al. (2018, text segmentation as a supervised task)."""

    def __init__(self, config: SentenceTaggerConfig, number: int) -> None:
        super().__init__()
        self.config, self.number = config, number
        self.content = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        self.frame = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        for table in (self.content, self.frame):
            nn.init.normal_(table.weight, std=_TABLE_STD / _TABLE_SPEED)
            with torch.no_grad():
                table.weight[0] = 0
        inputs = 2 * config.width + config.dense_features
        self.sentence = nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden))
        self.context = nn.ModuleList(
            _Bidirectional(config.hidden if layer == 0 else 2 * config.hidden, config.hidden)
            for layer in range(config.layers)
        )
        joined = 3 * config.hidden
        self.head = nn.Sequential(nn.Linear(joined, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))

    def forward(
        self,
        content: Tensor,
        counts: Tensor,
        frame: Tensor,
        dense: Tensor,
        lengths: Tensor,
        seeds: Tensor | None = None,
    ) -> Float[Tensor, "b s"]:
        """What `SentenceTagger.forward` takes, to the logits of one member."""
        rate, place = self.config.dropout, self.number * _MEMBER_PLACES
        vectors = torch.cat([self._bags(content, counts), self._frames(frame), dense], dim=-1)
        sentence = self.sentence(vectors)
        context = sentence
        for number, layer in enumerate(self.context):
            context = layer(_dropped(context, seeds, rate, place + number), lengths)
        logits = self.head(_dropped(torch.cat([sentence, context], dim=-1), seeds, rate, place - 1))[..., 0]
        inside = torch.arange(counts.shape[1], device=lengths.device) < lengths[:, None]
        return torch.where(inside, logits, torch.zeros_like(logits))

    def _bags(self, content: Tensor, counts: Tensor) -> Tensor:
        batch, tokens = content.shape
        # Bags of a window start in its own row; its last bag also takes the padding, which the mean leaves out.
        offsets = counts.cumsum(1) - counts + tokens * torch.arange(batch, device=counts.device)[:, None]
        bags = self.content(content.reshape(-1), offsets.reshape(-1).to(content.dtype))
        return bags.view(*counts.shape, -1) * (_TABLE_SPEED * _CONTENT_GAIN)

    def _frames(self, frame: Tensor) -> Tensor:
        bags = self.frame(frame.reshape(-1, frame.shape[-1]))
        return bags.view(*frame.shape[:2], -1) * (_TABLE_SPEED * frame.shape[-1] ** 0.5)


def _dropped(x: Float[Tensor, "b s v"], seeds: Tensor | None, rate: float, place: int) -> Float[Tensor, "b s v"]:
    """Dropout (Srivastava et al. 2014) whose choice is a hash (SplitMix64's finaliser) of seed, place and element."""
    if seeds is None or rate == 0:
        return x
    elements = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
    mixed = (seeds.long() + place)[:, None, None] * -7046029254386353131 + elements * -4417276706812531889
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    kept = ((mixed >> 31) & 0xFFFFFF) >= int(rate * (1 << 24))
    return x * kept / (1 - rate)


class _Bidirectional(nn.Module):
    """A GRU (Cho et al. 2014) in either direction. Windows stand at the left of their padding, so the one never sees it
    before the end, and the other reads each window reversed in place. PyTorch's packed sequences say the same; on a CPU
    their backward pass takes five times as long."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.onward = nn.GRU(inputs, hidden, batch_first=True)
        self.homeward = nn.GRU(inputs, hidden, batch_first=True)

    def forward(self, x: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b s w"]:
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]
        onward, _ = self.onward(x)
        homeward, _ = self.homeward(x.gather(1, mirrored.expand_as(x)))
        return torch.cat([onward, homeward.gather(1, mirrored.expand_as(homeward))], dim=-1)


def init_from_tagger(tagger: nn.Module, other: nn.Module) -> int:
    """Copy all weights of another tagger; returns how many tensors were copied. `RequestError` where sizes differ."""
    for name in ("buckets", "dense_features", "width", "hidden", "layers", "members"):
        mine, theirs = getattr(tagger.config, name), getattr(other.config, name)
        if mine != theirs:
            raise RequestError(f"SentenceTaggerConfig.{name} must be the other tagger's {theirs}, got {mine}")
    weights = other.state_dict()
    tagger.load_state_dict(weights)
    return len(weights)
