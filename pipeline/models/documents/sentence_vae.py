"""A variational autoencoder of sentences (Bowman et al. 2016, Generating Sentences from a Continuous Space).

A recurrent encoder reads the subwords of a sentence and gives a Gaussian of latents; a recurrent decoder writes the
sentence again, subword by subword, from a sample of them. It sees the latents at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import check
from pipeline.models.autoencoders.latents import Gaussian

_DECODER = ("decoder_state", "decoder", "output")
_LOG_VARIANCES = (-10.0, 4.0)  # outside of them an exponential would only bring overflow


@dataclass(frozen=True, kw_only=True)
class SentenceVAEConfig:
    vocabulary: int = 4096
    """Number of ids of subwords, with the three that mean none, begin and end."""
    embedding: int = 128
    """Size of the vector of a subword, which encoder, decoder and output share."""
    encoder_hidden: int = 256
    """Hidden units of the encoder, in each direction."""
    decoder_hidden: int = 384
    """Hidden units of the decoder."""
    latents: int = 32
    """Number of latents of a sentence."""

    def __post_init__(self) -> None:
        check(self, "vocabulary", self.vocabulary >= 4, "be at least 4")
        for name in ("embedding", "encoder_hidden", "decoder_hidden", "latents"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")


class SentenceEncoder(nn.Module):
    """The half that reads. Sentences are ids of subwords (n, t), padded with 0 behind their ``lengths`` (n,), which are
    at least 1. The result for a sentence does not depend on the others."""

    def __init__(self, config: SentenceVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocabulary, config.embedding)
        nn.init.normal_(self.table.weight, std=0.1)
        self.onward = nn.GRU(config.embedding, config.encoder_hidden, batch_first=True)
        self.homeward = nn.GRU(config.embedding, config.encoder_hidden, batch_first=True)
        self.posterior = nn.Linear(4 * config.encoder_hidden, 2 * config.latents)

    def encode(self, ids: Int[Tensor, "n t"], lengths: Int[Tensor, " n"]) -> Gaussian:
        """The posterior of the latents, (n, d) float32."""
        place = torch.arange(ids.shape[1], device=ids.device)
        inside = (place < lengths[:, None])[..., None]
        # Padding is at the right: the backward network reads each sentence reversed in place.
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]
        x = self.table(ids)
        there, _ = self.onward(x)
        back, _ = self.homeward(x.gather(1, mirrored.expand_as(x)))
        both = torch.cat([there, back], dim=-1)
        last = both.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, both.shape[-1]))[:, 0]
        mean = (both * inside).sum(1) / lengths[:, None]
        found = self.posterior(torch.cat([last, mean], dim=-1)).float()
        mean, log_variance = found.chunk(2, dim=-1)
        return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCES))


class SentenceVAE(SentenceEncoder):
    """Both halves: the encoder, and a decoder that writes."""

    def __init__(self, config: SentenceVAEConfig) -> None:
        super().__init__(config)
        self.decoder_state = nn.Linear(config.latents, config.decoder_hidden)
        self.decoder = nn.GRU(config.embedding + config.latents, config.decoder_hidden, batch_first=True)
        self.output = nn.Linear(config.decoder_hidden + config.latents, config.embedding)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def logits(
        self, latents: Float[Tensor, "n d"], before: Int[Tensor, "n t"], state: Tensor | None = None
    ) -> tuple[Float[Tensor, "n t k"], Tensor]:
        """Logits of the next subword after each of ``before``, and the state (1, n, h) after the last, from which the
        next call goes on. Without a ``state`` the sentence begins."""
        read, state = self._read(latents, before, state)
        return self._written(read), state

    def log_likelihood(
        self,
        latents: Float[Tensor, "n d"],
        ids: Int[Tensor, "n t"],
        lengths: Int[Tensor, " n"],
        begin: int,
        hidden: Bool[Tensor, "n t"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Log probability of each sentence given its latents, in nats.

        The decoder is given the true subwords before each. Those that are ``hidden`` are replaced by 0 (word dropout,
        Bowman et al. 2016). ``begin`` is the id before the first.
        """
        logits, inside = self._logits_inside(latents, ids, lengths, begin, hidden)
        nats = functional.cross_entropy(logits.float(), ids[inside].long(), reduction="none")
        return -torch.zeros(inside.shape, device=ids.device).masked_scatter(inside, nats).sum(1)

    def likeliest(
        self, latents: Float[Tensor, "n d"], ids: Int[Tensor, "n t"], lengths: Int[Tensor, " n"], begin: int
    ) -> Int[Tensor, ""]:
        """How many subwords of all sentences are the likeliest ones, given the true ones before."""
        logits, inside = self._logits_inside(latents, ids, lengths, begin, None)
        return (logits.argmax(-1) == ids[inside]).sum()

    def _logits_inside(
        self, latents: Tensor, ids: Tensor, lengths: Tensor, begin: int, hidden: Tensor | None
    ) -> tuple[Float[Tensor, "m k"], Bool[Tensor, "n t"]]:
        """The logits of all subwords that are no padding, and which these are."""
        before = functional.pad(ids[:, :-1], (1, 0), value=begin)
        if hidden is not None:
            before = torch.where(hidden, 0, before)
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self._written(self._read(latents, before, None)[0][inside]), inside

    def _read(self, latents: Tensor, before: Tensor, state: Tensor | None) -> tuple[Float[Tensor, "n t h"], Tensor]:
        """What the decoder knows after each subword, and its state after the last."""
        z = latents[:, None].expand(-1, before.shape[1], -1).to(self.table.weight.dtype)
        if state is None:
            state = torch.tanh(self.decoder_state(z[:, 0]))[None].contiguous()
        found, state = self.decoder(torch.cat([self.table(before), z], dim=-1), state.to(z.dtype))
        assert state is not None
        return torch.cat([found, z.to(found.dtype)], dim=-1), state

    def _written(self, read: Float[Tensor, "... h"]) -> Float[Tensor, "... k"]:
        written = self.output(read)
        return functional.linear(written, self.table.weight.to(written.dtype), self.bias.to(written.dtype))

    def set_frequencies(self, counts: Int[Tensor, " k"]) -> None:
        """Begin with the logarithms of the subwords' frequencies, of which one more is counted for each subword."""
        with torch.no_grad():
            self.bias.copy_(((counts + 1) / (counts + 1).sum()).log())

    def reset_decoder(self, seed: int) -> list[str]:
        """Give the decoder new random weights, a function of the seed; returns the names of its parameters. What it
        shares with the encoder stays, and so do the subwords' frequencies."""
        generator = torch.Generator().manual_seed(seed)
        found = {name: value for name, value in self.named_parameters() if name.partition(".")[0] in _DECODER}
        with torch.no_grad():
            for name, value in found.items():
                part = getattr(self, name.partition(".")[0])
                size = part.hidden_size if isinstance(part, nn.GRU) else part.in_features
                value.copy_((torch.rand(value.shape, generator=generator) * 2 - 1) * size**-0.5)
        return list(found)


def alike_in_length(lengths: Int[Tensor, " n"], rows: int) -> Iterator[Int[Tensor, " m"]]:
    """Groups of at most ``rows`` sentences of similar lengths, as indices, so that there is little padding. Sentences
    of length 0 are left out."""
    order = lengths.argsort(stable=True)
    order = order[lengths[order] > 0]
    yield from order.split(rows) if len(order) else ()
