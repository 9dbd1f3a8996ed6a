"""Several sources as one training set: their inputs one after the other, and how often each source is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.keys import INPUT_KEY, GrowingKeySet, keys
from pipeline.source.labelled import all_inputs, is_held_out, joined


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the inputs of a listing come from."""

    names: tuple[str, ...]
    """The URIs, as they were given."""
    weights: tuple[float, ...]
    """For each source, how often a sample of it is drawn in an epoch, at least 1."""
    of_inputs: np.ndarray
    """The index of each input's source, int64 (n,), rising."""

    def first_inputs(self) -> np.ndarray:
        """The index of the first input of each source; the number of inputs for a source without any."""
        return np.searchsorted(self.of_inputs, np.arange(len(self.names)))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Inputs of one or more sources."""

    inputs: pa.Table
    sources: Sources

    def held_out(self, fraction: float) -> tuple[Corpus, Corpus]:
        """The rest, and about ``fraction`` of the inputs, as `pipeline.source.labelled.held_out` chooses them."""
        chosen = is_held_out(self.inputs, fraction)
        return self._part(~chosen), self._part(chosen)

    def _part(self, chosen: np.ndarray) -> Corpus:
        sources = Sources(
            names=self.sources.names, weights=self.sources.weights, of_inputs=self.sources.of_inputs[chosen]
        )
        return Corpus(inputs=joined([self.inputs.filter(pa.array(chosen))]), sources=sources)


def corpus(uris: Sequence[str], weights: Sequence[float], kind: InputKind) -> Corpus:
    """The inputs of all sources, in the order in which these are given. An input that lies in two belongs to the first.

    ``weights`` say how often the samples of a source are drawn, compared with those of the others; none: all equally
    often. `RequestError` if a source has no inputs, or none that no source before it has.
    """
    known, tables = GrowingKeySet(), []
    for uri in uris:
        found = all_inputs(uri, kind)
        names = keys(found, INPUT_KEY)
        new = known.new(names)
        known.add(names[new])
        found = found.filter(pa.array(new))
        if not found.num_rows:
            raise RequestError(f"data {uri!r}: all of its inputs are in the sources before it, too")
        tables.append(found)
    given = np.array(weights or [1.0] * len(uris))
    sources = Sources(
        names=tuple(uris),
        weights=tuple((given / given.min()).tolist()),
        of_inputs=np.repeat(np.arange(len(tables)), [table.num_rows for table in tables]),
    )
    return Corpus(inputs=joined(tables), sources=sources)
