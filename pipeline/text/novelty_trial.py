"""After a training: whether the statistics of documents tell strange ones from others, and better than the uncertainty
of the tagger does. If not, the column ``novelty`` stays null."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pipeline.feature_gaussian import auroc
from pipeline.text.features import SentenceFeatures
from pipeline.text.novelty import LEAST_DOCUMENTS, DocumentReference, reference
from pipeline.text.outputs import certainty
from pipeline.text.windows import repeated

_TRIED = 24  # documents that are made strange
_REPEATED = 5  # sentences
_ODD = 48_271

#: Makes a document strange; the number of ids is the second argument.
Change = Callable[[SentenceFeatures, int], SentenceFeatures]


def tried(
    documents: Sequence[SentenceFeatures],
    groups: Sequence[int],
    buckets: int,
    weights: np.ndarray,
    scores: Callable[[SentenceFeatures], np.ndarray],
) -> tuple[DocumentReference | None, str]:
    """The reference for training documents, or None if there is to be no novelty, and a sentence about it.

    The documents that are tried are not among those that the reference of the trial is fitted to. ``scores``: the
    tagger's scores of a document, of which its uncertainty is made. ``groups`` as in `novelty.reference`.
    """
    if len(documents) < LEAST_DOCUMENTS:
        return None, f"null: there were {len(documents)} training documents, and at least {LEAST_DOCUMENTS} are needed"
    chosen = set(np.linspace(0, len(documents) - 1, _TRIED).astype(int).tolist())
    kept = [place for place in range(len(documents)) if place not in chosen]
    trial = reference([documents[place] for place in kept], [groups[place] for place in kept], buckets, weights)
    statistics = trial.statistics(buckets, weights)

    def measured(change: Change) -> tuple[np.ndarray, np.ndarray]:
        strange = [change(documents[place], buckets) for place in sorted(chosen)]
        raw = trial.raw(np.stack([statistics.of(item) for item in strange]))
        unsure = [(certainty(scores(item)) or (0.0, 0.0))[1] for item in strange]
        return raw, np.array(unsure)

    known = measured(lambda document, _: document)
    found = [measured(change) for change in STRANGE.values()]
    novelty, uncertainty = (float(np.mean([auroc(known[i], one[i]) for one in found])) for i in (0, 1))
    told = f"AUROC {novelty:.3f}, of uncertainty {uncertainty:.3f}, for training documents that were made strange"
    if novelty <= uncertainty:
        return None, f"null: it tells no more than uncertainty does ({told})"
    return reference(documents, groups, buckets, weights), f"{told} ({', '.join(STRANGE)})"


def words_of(model: nn.Module) -> np.ndarray | None:
    """The weights of a tagger's words; None of a model that has none."""
    weights = getattr(model, "weights", None)
    return weights.detach().cpu().numpy() if isinstance(weights, torch.Tensor) else None


def _shuffled(document: SentenceFeatures, buckets: int) -> SentenceFeatures:
    """All words in another order."""
    order = np.random.default_rng(0).permutation(len(document.content))
    return replace(document, content=document.content[order])


def _foreign(document: SentenceFeatures, buckets: int) -> SentenceFeatures:
    """Each word replaced by another, always the same, as in an unknown language."""
    ids = document.content.astype(np.int64) * _ODD % (buckets - 1) + 1
    return replace(document, content=ids.astype(np.int32))


def _repeated(document: SentenceFeatures, buckets: int) -> SentenceFeatures:
    """The first sentences again and again."""
    size = len(document.counts)
    return repeated(document, np.arange(size) % min(_REPEATED, size))


#: What is done to documents to make them strange: another order of words, another language, repetition.
STRANGE: dict[str, Change] = {"shuffled words": _shuffled, "other words": _foreign, "repeated sentences": _repeated}
