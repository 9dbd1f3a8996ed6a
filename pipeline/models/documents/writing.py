"""Writing sentences from latents: by beam search, or by drawing from the nucleus of the likeliest subwords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import check
from pipeline.models.documents.sentence_vae import SentenceVAE

#: Draws uniform numbers in [0, 1) of a shape (n, t), where n is the number of sentences.
Draw = Callable[[int], Float[Tensor, "n t"]]


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    decoding: Literal["beam", "nucleus"] = "beam"
    """beam: the likeliest sentence that a beam search finds, so all chance is in the latents; nucleus: subwords are
    drawn from the likeliest ones (Holtzman et al. 2020)."""
    beam_width: int = 5
    """Number of beginnings of a sentence that a beam search follows."""
    top_p: float = 0.9
    """Probability of the subwords, likeliest first, from which nucleus draws."""
    max_subwords: int = 64
    """Number of subwords after which a sentence is cut."""

    def __post_init__(self) -> None:
        check(self, "beam_width", self.beam_width >= 1, "be at least 1")
        check(self, "top_p", 0 < self.top_p <= 1, "be in (0, 1]")
        check(self, "max_subwords", self.max_subwords >= 1, "be at least 1")


def write(
    model: SentenceVAE, latents: Float[Tensor, "n d"], config: WritingConfig, ends: tuple[int, int], draw: Draw
) -> list[list[int]]:
    """The ids of a sentence for each row of latents, without the end. ``ends``: the ids before the first and behind the
    last subword. A sentence does not depend on the others."""
    with torch.inference_mode():
        if config.decoding == "beam":
            return [_beam(model, row[None], config, ends) for row in latents]
        return _nucleus(model, latents, config, ends, draw(config.max_subwords))


def _beam(model: SentenceVAE, latents: Tensor, config: WritingConfig, ends: tuple[int, int]) -> list[int]:
    """The sentence with the largest mean log probability of its subwords: of the first ``beam_width`` that end, or if
    there are fewer, also of those that had to be cut."""
    begin, end = ends
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    state: Tensor | None = None
    finished: list[tuple[float, list[int]]] = []
    for _ in range(config.max_subwords):
        last = torch.tensor([[ids[-1] if ids else begin] for _, ids in beams])
        logits, state = model.logits(latents.expand(len(beams), -1), last, state)
        found = logits[:, 0].float().log_softmax(-1)
        found[:, [0, begin]] = -torch.inf
        totals = torch.tensor([total for total, _ in beams])[:, None] + found
        best = totals.flatten().topk(2 * config.beam_width)
        following, kept = [], []
        for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, token = divmod(place, found.shape[1])
            if token == end:
                finished.append((total / (len(beams[row][1]) + 1), beams[row][1]))
            elif len(following) < config.beam_width:
                following.append((total, [*beams[row][1], token]))
                kept.append(row)
        if len(finished) >= config.beam_width:
            return max(finished, key=lambda item: item[0])[1]
        beams, state = following, state[:, kept].contiguous()
    cut = [(total / len(ids), ids) for total, ids in beams]
    return max([*finished, *cut], key=lambda item: item[0])[1]


def _nucleus(
    model: SentenceVAE, latents: Tensor, config: WritingConfig, ends: tuple[int, int], drawn: Float[Tensor, "n t"]
) -> list[list[int]]:
    """Draw each subword from the smallest set of the likeliest ones with the probability ``top_p``."""
    begin, end = ends
    last = torch.full((len(latents), 1), begin)
    state: Tensor | None = None
    columns: list[Tensor] = []
    for place in range(config.max_subwords):
        logits, state = model.logits(latents, last, state)
        scores = logits[:, 0].float()
        scores[:, [0, begin]] = -torch.inf
        likely, order = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
        sums = likely.cumsum(-1)
        size = (sums - likely < config.top_p).sum(-1, keepdim=True)
        goal = drawn[:, place, None] * sums.gather(1, size - 1)
        last = order.gather(1, (sums <= goal).sum(-1, keepdim=True).minimum(size - 1))
        columns.append(last)
    return [_until(row, end) for row in torch.cat(columns, dim=1).tolist()]


def _until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end)]) if end in ids else list(ids)
