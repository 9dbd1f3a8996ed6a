"""Paragraph boundaries in a sequence of sentences: word vectors, networks that are recurrent or attend, one logit for
each sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.documents.cohesion import BLOCK_COSINES, LEXICAL_CHAINS, block_cosines, lexical_chains
from pipeline.splitmix import GAMMA, mix_24, signed

# Tables and vectors are stored at unit scale and read at this one, so Adam moves them that much more slowly than other
# weights. A step of Adam does not grow with how often a row is used: at full speed the rows of rare words learn the
# training books by heart, and the F1 on unseen books falls from the second epoch on.
_TABLE_SPEED = 0.02
_MEAN_GAIN = 5.0  # the square root of a usual number of words: a mean of n has that much less spread
_ELEMENT_FACTOR = -4417276706812531889  # odd: the elements of a window stay different modulo 2**64
_MEMBER_PLACES = 1000  # members of an ensemble drop other values: more than the places of dropout in one of them
_EDGES = (0, 1, 2, -1, -2)  # words that are seen one by one, from the start and from the end
_FARTHEST = 32  # sentences: what is farther apart counts as this far
_SLOPES = (1.0, 0.05)  # what a head's bias loses at first for each sentence of distance, from the first to the last

_Drop = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class SentenceTaggerConfig:
    buckets: int = 65536
    """Ids of hashed words and features; 0 is padding."""
    dense_features: int = 28
    """Numbers of a sentence that are not hashed."""
    vector_size: int = 192
    """Size of word vectors: one half tells words of one use, the other words of one topic."""
    width: int = 64
    """Size of a hashed id's embedding, and of what is made of the words at a sentence's edges."""
    hidden: int = 256
    """Units of each network; of a recurrent one, in each direction."""
    recurrent_members: int = 2
    """Networks that read the sentences in order, from either end. The answer is the mean of all members' logits."""
    recurrent_layers: int = 1
    attention_members: int = 1
    """Networks whose sentences attend to each other."""
    attention_layers: int = 2
    attention_heads: int = 4
    dropout: float = 0.3
    """Part of a sentence's values that is dropped in training."""

    def __post_init__(self) -> None:
        check(self, "buckets", self.buckets >= 2, "be at least 2")
        check(self, "vector_size", self.vector_size >= 2, "be at least 2")
        for name in ("dense_features", "width", "hidden", "recurrent_layers", "attention_layers", "attention_heads"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "recurrent_members", self.recurrent_members >= 0, "not be negative")
        rule = "not be negative, nor 0 without recurrent_members"
        check(self, "attention_members", self.attention_members >= (self.recurrent_members == 0), rule)
        rule = f"divide the hidden units ({self.hidden})"
        check(self, "attention_heads", self.attention_members == 0 or self.hidden % self.attention_heads == 0, rule)
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")


@dataclass(frozen=True)
class _Words:
    """What the words of each sentence say. All members share it."""

    ids: Int[Tensor, "b t"]
    """Those that are seen, else 0."""
    offsets: Int[Tensor, "b s"]
    """Where each sentence begins in all of ``ids``, one window after the other."""
    mean: Float[Tensor, "b s v"]
    """Weighted mean of their vectors."""
    edges: Float[Tensor, "b s e"]
    """Vectors of the first and last ones, one after the other; 0 where there is none."""
    cohesion: Float[Tensor, "b s n"]
    """How what stands before the sentence and what begins with it belong together."""


class SentenceTagger(nn.Module):
    """An ensemble (Hansen and Salamon 1990) over word vectors that stay near their start: those of `set_vectors`, or
    else random ones, in which no two words have anything in common.

    Windows of a batch may be of different lengths; what is said of one does not depend on the others.
    """

    weights: Tensor
    lasting: Tensor

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        self.config = config
        vectors, weights = torch.randn(config.buckets, config.vector_size), torch.ones(config.buckets)
        vectors[0], weights[0] = 0, 0
        self.vectors = nn.Parameter(vectors)
        self.register_buffer("weights", weights)
        self.register_buffer("lasting", torch.eye(config.vector_size))
        contexts = [_Recurrent] * config.recurrent_members + [_Attention] * config.attention_members
        self.members = nn.ModuleList(_Member(config, number, context) for number, context in enumerate(contexts))

    def set_vectors(
        self, vectors: Float[Tensor, "n v"], weights: Float[Tensor, " n"], lasting: Float[Tensor, "v w"]
    ) -> None:
        """For every id a vector, of about unit variance, and its weight in a mean; both are 0 for unknown words. And
        what of a sum of vectors lasts from sentence to sentence: how it is projected before two are compared."""
        with torch.no_grad():
            self.vectors.copy_(vectors)
        self.weights.copy_(weights)
        self.lasting.copy_(lasting)

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
        """Every member's logits that a paragraph begins at each sentence; 0 at padding.

        Their mean over members is the answer. Members are trained apart: trained on it, they would lean on each other.

        ``content`` holds the ids of a window's sentences one after the other, ``counts`` how many each sentence has,
        ``lengths`` how many sentences the window has, at least one. Ids, counts and numbers of padding are 0.
        Words that are not ``kept`` count for how sentences cohere, and for nothing else.
        ``seeds`` turn dropout on: what a window loses is a function of its seed, whatever worker has it.
        """
        # Sums over many sentences, in full precision.
        with torch.autocast(content.device.type, enabled=False):
            words = self._words(content, counts, lengths, kept)
        return torch.stack([member(words, frame, dense, lengths, seeds) for member in self.members])

    def _words(self, content: Tensor, counts: Tensor, lengths: Tensor, kept: Tensor | None) -> _Words:
        content = functional.pad(content, (0, 1))  # there is a last id, even of windows without words
        seen = torch.ones_like(content, dtype=torch.bool) if kept is None else functional.pad(kept, (0, 1))
        ids, place = content.unique(return_inverse=True)
        vectors, rarity = self.vectors[ids], self.weights[ids]
        weights = rarity[place]
        rarity = torch.where(rarity == 0, 1.0, rarity) * (ids > 0)  # a word without a vector is a rare one
        ends = counts.cumsum(1)
        starts = ends - counts
        # Bags of a window start in its own row; its last bag also takes the padding, which weighs nothing.
        offsets = starts + content.shape[1] * torch.arange(len(content), device=content.device)[:, None]
        table = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)  # the last column adds up the weights

        def sums(weight: Tensor) -> Tensor:
            bags = functional.embedding_bag(
                place.flatten(), table, offsets.flatten(), mode="sum", per_sample_weights=weight.flatten()
            )
            return bags.view(*counts.shape, -1)

        with torch.no_grad():
            cosines = block_cosines(sums(weights)[..., :-1], lengths, self.lasting)
            cohesion = torch.cat([cosines, lexical_chains(place, rarity, ends)], dim=-1)
        total = sums(weights * seen)
        index = torch.stack([starts + edge if edge >= 0 else ends + edge for edge in _EDGES], dim=-1)
        inside = (index >= starts[..., None]) & (index < ends[..., None])
        index = index.clamp(0, content.shape[1] - 1).flatten(1)
        inside &= seen.gather(1, index).view_as(inside)
        edges = vectors[place.gather(1, index)].view(*inside.shape, -1) * inside[..., None]
        mean = total[..., :-1] / total[..., -1:].clamp(min=1e-6)
        return _Words(content * seen, offsets, mean, edges.flatten(2), cohesion)


class _Member(nn.Module):
    """Sentence vectors from word vectors and hashed features (Joulin et al. 2016, fastText), put into context by a
    network over sentences, as in Koshorek et al. (2018, text segmentation as a supervised task)."""

    def __init__(self, config: SentenceTaggerConfig, number: int, context: type[_Recurrent] | type[_Attention]) -> None:
        super().__init__()
        self.config, self.number = config, number
        self.table = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        nn.init.normal_(self.table.weight)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.edges = nn.Linear(len(_EDGES) * config.vector_size, config.width)
        inputs = config.vector_size + 3 * config.width + config.dense_features + BLOCK_COSINES + LEXICAL_CHAINS
        self.sentence = nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden))
        self.context = context(config)
        joined = 3 * config.hidden
        self.head = nn.Sequential(nn.Linear(joined, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))

    def forward(
        self, words: _Words, frame: Tensor, dense: Tensor, lengths: Tensor, seeds: Tensor | None
    ) -> Float[Tensor, "b s"]:
        """The rest of what `SentenceTagger.forward` takes, to the logits of one member."""
        rate, place = self.config.dropout, self.number * _MEMBER_PLACES
        edges = self.edges(_dropped(words.edges * _TABLE_SPEED, seeds, rate, place - 2))
        parts = [
            words.mean * (_TABLE_SPEED * _MEAN_GAIN),
            functional.gelu(edges),
            self._bags(words),
            self._frames(frame),
            dense,
            words.cohesion,
        ]
        sentence = self.sentence(torch.cat(parts, dim=-1))
        context = self.context(sentence, lengths, lambda x, layer: _dropped(x, seeds, rate, place + layer))
        logits = self.head(_dropped(torch.cat([sentence, context], dim=-1), seeds, rate, place - 1))[..., 0]
        inside = torch.arange(frame.shape[1], device=lengths.device) < lengths[:, None]
        return torch.where(inside, logits, torch.zeros_like(logits))

    def _bags(self, words: _Words) -> Tensor:
        bags = self.table(words.ids.flatten(), words.offsets.flatten().to(words.ids.dtype))
        return bags.view(*words.offsets.shape, -1) * (_TABLE_SPEED * _MEAN_GAIN)

    def _frames(self, frame: Tensor) -> Tensor:
        bags = self.table(frame.reshape(-1, frame.shape[-1]))
        return bags.view(*frame.shape[:2], -1) * (_TABLE_SPEED * frame.shape[-1] ** 0.5)


def _dropped(x: Float[Tensor, "b s v"], seeds: Tensor | None, rate: float, place: int) -> Float[Tensor, "b s v"]:
    """Dropout (Srivastava et al. 2014) whose choice is a hash (`pipeline.splitmix`) of seed, place and element."""
    if seeds is None or rate == 0:
        return x
    elements = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
    numbers = (seeds.long() + place)[:, None, None] * signed(GAMMA) + elements * _ELEMENT_FACTOR
    kept = mix_24(numbers) >= int(rate * (1 << 24))
    return x * kept / (1 - rate)


class _Recurrent(nn.Module):
    """Layers of GRUs (Cho et al. 2014) in both directions. Windows stand at the left of their padding, so the one never
    sees it before the end, and the other reads each window reversed in place. PyTorch's packed sequences say the same;
    on a CPU their backward pass takes five times as long."""

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        inputs = [config.hidden] + [2 * config.hidden] * (config.recurrent_layers - 1)
        self.onward = nn.ModuleList(nn.GRU(size, config.hidden, batch_first=True) for size in inputs)
        self.homeward = nn.ModuleList(nn.GRU(size, config.hidden, batch_first=True) for size in inputs)

    def forward(self, x: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"], drop: _Drop) -> Float[Tensor, "b s w"]:
        """``drop`` takes the values that a layer reads, and its number."""
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]
        for number, (onward, homeward) in enumerate(zip(self.onward, self.homeward, strict=True)):
            x = drop(x, number)
            there, _ = onward(x)
            back, _ = homeward(x.gather(1, mirrored.expand_as(x)))
            x = torch.cat([there, back.gather(1, mirrored.expand_as(back))], dim=-1)
        return x


class _Attention(nn.Module):
    """A transformer's encoder (Vaswani et al. 2017), normalised before each part (Xiong et al. 2020), where each head
    of each layer learns how much a sentence's distance counts (Shaw et al. 2018; as one number, Raffel et al. 2020)."""

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        self.inputs = nn.Linear(config.hidden, config.hidden)
        self.blocks = nn.ModuleList(
            _Block(config.hidden, config.attention_heads) for _ in range(config.attention_layers)
        )
        self.outputs = nn.Linear(config.hidden, 2 * config.hidden)

    def forward(self, x: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"], drop: _Drop) -> Float[Tensor, "b s w"]:
        place = torch.arange(x.shape[1], device=x.device)
        distance = (place - place[:, None]).clamp(-_FARTHEST, _FARTHEST) + _FARTHEST
        inside = (place < lengths[:, None])[:, None, None]
        x = self.inputs(drop(x, 0))
        for block in self.blocks:
            x = block(x, distance, inside)
        return self.outputs(x)


class _Block(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.normal, self.normal_within = nn.LayerNorm(size), nn.LayerNorm(size)
        self.projections, self.joined = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.within = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        # Heads start from very near to far (Press et al. 2022).
        first, last = (math.log10(slope) for slope in _SLOPES)
        slopes = torch.logspace(first, last, heads)
        self.bias = nn.Parameter(-slopes[:, None] * torch.arange(-_FARTHEST, _FARTHEST + 1).abs())

    def forward(self, x: Float[Tensor, "b s v"], distance: Int[Tensor, "s s"], inside: Tensor) -> Tensor:
        heads = self.bias.shape[0]
        parts = self.projections(self.normal(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias[:, distance].masked_fill(~inside, -torch.inf).to(parts.dtype)
        seen = functional.scaled_dot_product_attention(*parts, attn_mask=bias)
        x = x + self.joined(seen.transpose(1, 2).flatten(2))
        return x + self.within(self.normal_within(x))


def init_from_tagger(tagger: nn.Module, other: nn.Module) -> int:
    """Copy all weights of another tagger; returns how many tensors were copied. `RequestError` where sizes differ."""
    for field in fields(SentenceTaggerConfig):
        mine, theirs = getattr(tagger.config, field.name), getattr(other.config, field.name)
        if mine != theirs and field.name != "dropout":
            raise RequestError(f"SentenceTaggerConfig.{field.name} must be the other tagger's {theirs}, got {mine}")
    weights = other.state_dict()
    tagger.load_state_dict(weights)
    return len(weights)
