"""A network that predicts paragraph boundaries: it reads the sentences of a document and returns one logit for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import added, check
from pipeline.errors import RequestError
from pipeline.models.documents.cohesion import BLOCK_COSINES, LEXICAL_CHAINS, block_cosines, lexical_chains
from pipeline.models.documents.sentence_vae import SentenceEncoder, SentenceVAE, SentenceVAEConfig, alike_in_length
from pipeline.splitmix import GAMMA, mix_24, signed

# Embedding tables and word vectors are stored at unit scale and multiplied by this when they are read, so Adam moves
# them more slowly than the other weights by this factor. Adam's steps do not shrink for rarely used rows: at full speed
# the rows of rare words memorise the training books, and the F1 on unseen books falls from the second epoch on.
_TABLE_SPEED = 0.02
_MEAN_GAIN = 5.0  # the standard deviation of a mean of n words is smaller by sqrt(n), and 25 words are usual
_ELEMENT_FACTOR = -4417276706812531889  # odd: the elements of a window stay different modulo 2**64
_MEMBER_PLACES = 1000  # offset of a member's dropout places, larger than the number of places in a member
_GROUP = 64  # sentences of similar lengths that the encoder reads together
_EDGES = (0, 1, 2, -1, -2)  # words whose vectors are used one by one: the first three and the last two
_FARTHEST = 32  # sentences; larger distances share the bias of this one
_SLOPES = (1.0, 0.05)  # initial decrease of the attention bias for each sentence of distance: first head, last head

_Drop = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class SentenceTaggerConfig:
    buckets: int = 65536
    """Number of ids of hashed words and features. Id 0 is padding."""
    dense_features: int = 28
    """Number of features of a sentence that are plain numbers, not hashed."""
    vector_size: int = 192
    """Size of word vectors. One half is similar for words of the same use, the other for words of the same topic."""
    width: int = 64
    """Size of the embedding of a hashed id, and of the embedding of the first and last words of a sentence."""
    hidden: int = 256
    """Hidden units of each member network; of a recurrent one, in each direction."""
    recurrent_members: int = 2
    """Number of recurrent networks in the ensemble, whose logit is the mean of the logits of all members."""
    recurrent_layers: int = 1
    """Number of layers of each recurrent network."""
    attention_members: int = 1
    """Number of networks with self-attention over sentences in the ensemble."""
    attention_layers: int = 2
    """Number of layers of each attention network."""
    attention_heads: int = 4
    """Number of attention heads in each layer; it must divide hidden."""
    dropout: float = 0.3
    """Fraction of the values of a sentence that are dropped in training."""
    encoder: SentenceVAEConfig | None = added(None)
    """Settings of the autoencoder of sentences whose latents the tagger reads, too; null: it reads none. Training takes
    them from the package that init names."""

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
    """Features of each sentence that are computed from its words. All members use the same."""

    ids: Int[Tensor, "b t"]
    """Ids of the words that are kept; 0 for the others."""
    offsets: Int[Tensor, "b s"]
    """Start of each sentence in the flattened ``ids``."""
    mean: Float[Tensor, "b s v"]
    """Weighted mean of the word vectors of each sentence."""
    edges: Float[Tensor, "b s e"]
    """Vectors of the first three and the last two words, concatenated; 0 where the sentence is too short."""
    cohesion: Float[Tensor, "b s n"]
    """`block_cosines` and `lexical_chains`: how similar the text before and after the sentence's start is."""


class SentenceTagger(nn.Module):
    """An ensemble of networks (Hansen and Salamon 1990) over slowly trained word vectors.

    The vectors start from those that `set_vectors` is given, or else from random ones, which are all dissimilar. The
    windows of a batch may have different lengths; the result for a window does not depend on the others.
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
        self.encoder = None if config.encoder is None else SentenceEncoder(config.encoder).requires_grad_(False)

    def set_vectors(
        self, vectors: Float[Tensor, "n v"], weights: Float[Tensor, " n"], lasting: Float[Tensor, "v w"]
    ) -> None:
        """Set the word vectors, their weights and the projection for comparing sentences.

        ``vectors`` have about unit variance, and ``weights`` are the words' weights in a mean; both are 0 for unknown
        words. ``lasting`` projects a sum of vectors to the part that persists from sentence to sentence (the topic).
        """
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
        latents: Float[Tensor, "b s d"] | None = None,
    ) -> Float[Tensor, "m b s"]:
        """Logits of every member that a paragraph begins at each sentence; 0 at padding.

        The answer of the ensemble is their mean over members. In training each member has its own loss: with a loss of
        the mean they would depend on each other.

        ``content`` holds the ids of the words of all sentences of a window, concatenated; ``counts`` is the number of
        words of each sentence, and ``lengths`` the number of sentences of the window, at least 1. Padding is 0.
        Words that are not ``kept`` are used for the cohesion features only.
        With ``seeds`` there is dropout, which depends on the seed of a window and on no worker. ``latents`` are those
        of `latents`, of a model with an encoder.
        """
        # Sums over many sentences need full precision.
        with torch.autocast(content.device.type, enabled=False):
            words = self._words(content, counts, lengths, kept)
        if self.encoder is not None:
            assert latents is not None
            dense = torch.cat([dense, _with_change(latents)], dim=-1)
        return torch.stack([member(words, frame, dense, lengths, seeds) for member in self.members])

    @torch.no_grad()
    def latents(self, subwords: Int[Tensor, "b s t"], counts: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        """The mean latents of the sentences, by the encoder, which does not learn; those of the prior, 0, of sentences
        without subwords. ``counts``: number of subwords of each sentence; padding is 0."""
        assert self.encoder is not None
        ids, lengths = subwords.flatten(0, 1), counts.flatten()
        found = torch.zeros(len(ids), self.encoder.config.latents, device=ids.device)
        with torch.autocast(ids.device.type, enabled=False):
            for group in alike_in_length(lengths, _GROUP):
                longest = int(lengths[group].max())
                found[group] = self.encoder.encode(ids[group, :longest], lengths[group]).mean
        return found.view(*counts.shape, -1)

    def _words(self, content: Tensor, counts: Tensor, lengths: Tensor, kept: Tensor | None) -> _Words:
        content = functional.pad(content, (0, 1))  # so that indexing the last word works for windows without words
        seen = torch.ones_like(content, dtype=torch.bool) if kept is None else functional.pad(kept, (0, 1))
        ids, place = content.unique(return_inverse=True)
        vectors, rarity = self.vectors[ids], self.weights[ids]
        weights = rarity[place]
        rarity = torch.where(rarity == 0, 1.0, rarity) * (ids > 0)  # a word without a vector counts as fully rare
        ends = counts.cumsum(1)
        starts = ends - counts
        # Each bag begins in its window's row; the last bag of a row also gets the padding, whose weight is 0.
        offsets = starts + content.shape[1] * torch.arange(len(content), device=content.device)[:, None]
        table = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)  # the last column sums the weights

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
    """One network of the ensemble. It makes a vector for each sentence from word vectors and hashed features (fastText,
    Joulin et al. 2016), and then a network over the sentences adds context (Koshorek et al. 2018, text segmentation as
    a supervised task)."""

    def __init__(self, config: SentenceTaggerConfig, number: int, context: type[_Recurrent] | type[_Attention]) -> None:
        super().__init__()
        self.config, self.number = config, number
        self.table = nn.EmbeddingBag(config.buckets, config.width, mode="mean", padding_idx=0)
        nn.init.normal_(self.table.weight)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.edges = nn.Linear(len(_EDGES) * config.vector_size, config.width)
        inputs = config.vector_size + 3 * config.width + config.dense_features + BLOCK_COSINES + LEXICAL_CHAINS
        inputs += 0 if config.encoder is None else 2 * config.encoder.latents
        self.sentence = nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden))
        self.context = context(config)
        joined = 3 * config.hidden
        self.head = nn.Sequential(nn.Linear(joined, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))

    def forward(
        self, words: _Words, frame: Tensor, dense: Tensor, lengths: Tensor, seeds: Tensor | None
    ) -> Float[Tensor, "b s"]:
        """The logits of this member. The arguments are those of `SentenceTagger.forward`, with `_Words` for content;
        ``dense`` also has the latents, if there are any."""
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


def _with_change(latents: Float[Tensor, "b s d"]) -> Float[Tensor, "b s e"]:
    """Latents, and how far each is from that of the sentence before; the first sentence has none before."""
    before = torch.cat([latents[:, :1], latents[:, :-1]], dim=1)
    return torch.cat([latents, (latents - before).abs()], dim=-1)


def _dropped(x: Float[Tensor, "b s v"], seeds: Tensor | None, rate: float, place: int) -> Float[Tensor, "b s v"]:
    """Dropout (Srivastava et al. 2014): a hash (`pipeline.splitmix`) of seed, place and element says what to drop."""
    if seeds is None or rate == 0:
        return x
    elements = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
    numbers = (seeds.long() + place)[:, None, None] * signed(GAMMA) + elements * _ELEMENT_FACTOR
    kept = mix_24(numbers) >= int(rate * (1 << 24))
    return x * kept / (1 - rate)


class _Recurrent(nn.Module):
    """Layers of GRUs (Cho et al. 2014) in both directions.

    Padding is at the right, so the forward GRU reads it only after the window. The backward GRU reads each window
    reversed in place. PyTorch's packed sequences compute the same, but on a CPU their backward pass takes five times as
    long.
    """

    def __init__(self, config: SentenceTaggerConfig) -> None:
        super().__init__()
        inputs = [config.hidden] + [2 * config.hidden] * (config.recurrent_layers - 1)
        self.onward = nn.ModuleList(nn.GRU(size, config.hidden, batch_first=True) for size in inputs)
        self.homeward = nn.ModuleList(nn.GRU(size, config.hidden, batch_first=True) for size in inputs)

    def forward(self, x: Float[Tensor, "b s v"], lengths: Int[Tensor, " b"], drop: _Drop) -> Float[Tensor, "b s w"]:
        """``drop`` applies dropout: its arguments are the input of a layer and the layer's number."""
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]
        for number, (onward, homeward) in enumerate(zip(self.onward, self.homeward, strict=True)):
            x = drop(x, number)
            there, _ = onward(x)
            back, _ = homeward(x.gather(1, mirrored.expand_as(x)))
            x = torch.cat([there, back.gather(1, mirrored.expand_as(back))], dim=-1)
        return x


class _Attention(nn.Module):
    """A transformer encoder (Vaswani et al. 2017) with layer normalisation first (Xiong et al. 2020). Each head of each
    layer learns a bias for each distance between sentences (Shaw et al. 2018; as one number, Raffel et al. 2020)."""

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
        # The heads start with slopes from steep (near sentences only) to flat (Press et al. 2022).
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


def init_from_tagger(tagger: nn.Module, other: nn.Module) -> list[str]:
    """Copy all weights of another tagger; returns the names of the tensors. `RequestError` if a setting differs."""
    if not isinstance(other, SentenceTagger):
        raise RequestError(f"init must be a package of a sentence_tagger, got a {type(other).__name__}")
    for field in fields(SentenceTaggerConfig):
        mine, theirs = getattr(tagger.config, field.name), getattr(other.config, field.name)
        if mine != theirs and field.name != "dropout":
            raise RequestError(f"SentenceTaggerConfig.{field.name} must be the other tagger's {theirs}, got {mine}")
    weights = other.state_dict()
    tagger.load_state_dict(weights)
    return list(weights)


def init_encoder(tagger: nn.Module, other: nn.Module) -> list[str]:
    """Copy the encoder of an autoencoder of sentences; returns the names of the tensors. `RequestError` if its settings
    are others."""
    if not isinstance(other, SentenceVAE):
        raise RequestError(f"init must be a package of a sentence_vae, got a {type(other).__name__}")
    assert isinstance(tagger, SentenceTagger), type(tagger)
    if tagger.encoder is None or tagger.config.encoder != other.config:
        raise RequestError("SentenceTaggerConfig.encoder must be the settings of the autoencoder")
    wanted = tagger.encoder.state_dict()
    tagger.encoder.load_state_dict({name: value for name, value in other.state_dict().items() if name in wanted})
    return [f"encoder.{name}" for name in wanted]
