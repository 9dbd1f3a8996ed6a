"""Exact nearest neighbours by Euclidean distance, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Distances that are held at one time.
_VALUES = 2**23
# The products below round; so many more candidates than asked for are measured again.
_SPARE = 3


def squared_distances(
    query: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]
) -> Iterator[tuple[slice, Float[Tensor, "rows m"]]]:
    """Rows of the query, some at a time, with their squared distances to all of the reference, in its dtype.

    By matrix products: where two rows are equal, they say about the precision times the squared norm and not zero.
    """
    middle = reference.mean(0)
    query, reference = query - middle, reference - middle
    squares, rows = reference.square().sum(1), max(1, _VALUES // len(reference))
    for start in range(0, len(query), rows):
        part = slice(start, min(start + rows, len(query)))
        found = torch.addmm(squares, query[part], reference.T, alpha=-2)
        yield part, found.add_(query[part].square().sum(1, keepdim=True)).clamp_(min=0)


def nearest(query: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], count: int = 1) -> Float[Tensor, "n count"]:
    """Distances to the ``count`` nearest rows of the reference, ascending, float64; exactly 0 to a copy."""
    return _nearest(query, reference, count, same=False)


def nearest_others(rows: Float[Tensor, "n d"], count: int = 1) -> Float[Tensor, "n count"]:
    """Distances of each row to the ``count`` nearest other rows, ascending, float64.

    A row is no neighbour of itself, though a copy of it at another place is.
    """
    return _nearest(rows, rows, count, same=True)


def close_others(rows: Float[Tensor, "n d"], threshold: float) -> Int[Tensor, " n"]:
    """How many other rows are nearer than ``threshold`` to each row."""
    counts = []
    for part, found in squared_distances(rows, rows):
        found[torch.arange(len(found)), torch.arange(part.start, part.stop)] = torch.inf
        counts.append((found < threshold**2).sum(1))
    return torch.cat(counts)


def _nearest(query: Tensor, reference: Tensor, count: int, *, same: bool) -> Tensor:
    assert len(reference) - same >= count, "not so many neighbours"
    distances = torch.empty(len(query), count, dtype=torch.float64)
    for part, found in squared_distances(query, reference):
        if same:
            found[torch.arange(len(found)), torch.arange(part.start, part.stop)] = torch.inf
        candidates = found.topk(min(count + _SPARE, len(reference) - same), largest=False).indices
        rows = query[part].double()
        exact = [(rows - reference[places].double()).square().sum(1).sqrt() for places in candidates.unbind(1)]
        distances[part] = torch.stack(exact, 1).sort(1).values[:, :count]
    return distances
