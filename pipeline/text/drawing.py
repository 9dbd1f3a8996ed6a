"""Text that a sentence autoencoder writes: sentences of the prior, ways between two sentences, and paragraphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import RequestError
from pipeline.models.documents.sentence_vae import SentenceVAE
from pipeline.models.documents.writing import WritingConfig, write
from pipeline.noise import Noise, ReservedStep
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.subwords import BEGIN, END

#: Columns of a file of texts. ``kind``: sample, interpolation or paragraph; ``index``: its number among those of its
#: kind; ``place``: the number of the sentence in the interpolation or the paragraph.
TEXTS = pa.schema(
    [
        ("kind", pa.string()),
        ("index", pa.int64()),
        ("place", pa.int64()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("model", pa.string()),
    ]
)


class Writer:
    """Writes sentences with a package's model. A text depends on the seed and its number, not on the others."""

    def __init__(self, task: SentenceReconstruction, model: SentenceVAE, config: WritingConfig, seed: int) -> None:
        self._task, self._model, self._config, self._seed = task, model.eval(), config, seed

    def samples(self, count: int) -> list[str]:
        """Sentences whose latents are drawn from the standard normal prior."""
        noise = Noise(self._seed, ReservedStep.DRAWING, range(count))
        return self._written(noise.normal(self._model.config.latents), noise)

    def interpolation(self, first: str, last: str, steps: int) -> list[str]:
        """Sentences at even steps on the straight line between the mean latents of two sentences, ends included."""
        means = [self._task.posterior_of(self._model, text).mean.mean(0) for text in (first, last)]
        share = torch.linspace(0, 1, steps)[:, None]
        return self._written((1 - share) * means[0] + share * means[1], self._noise(steps))

    def paragraph(self, index: int, sentences: int) -> list[str]:
        """A paragraph: the latents of the first sentence are of the prior, and each further one follows from the one
        before by the `Succession` that was fitted to documents. `RequestError` if the package has none."""
        if self._task.known is None:
            raise RequestError("the package knows no succession of sentences; train it anew")
        drawn = Noise(self._seed, ReservedStep.PARAGRAPHS, [index]).normal(sentences, self._model.config.latents)[0]
        latents = [drawn[0].double().numpy()]
        for row in drawn[1:]:
            latents.append(self._task.known.succession.following(latents[-1], row.double().numpy()))
        return self._written(torch.from_numpy(np.stack(latents)).float(), self._noise(sentences, index))

    def _noise(self, count: int, index: int = 0) -> Noise:
        """For drawing the subwords of ``count`` sentences that belong together."""
        return Noise(self._seed, ReservedStep.PARAGRAPHS, range((index + 1) << 20, ((index + 1) << 20) + count))

    def _written(self, latents: Tensor, noise: Noise) -> list[str]:
        found = write(self._model, latents, self._config, (BEGIN, END), noise.uniform)
        return [self._task.subwords().decode(ids) for ids in found]


def rows(kind: str, index: int, texts: Sequence[str]) -> list[dict[str, object]]:
    """Rows of `TEXTS`, without the seed and the model."""
    return [{"kind": kind, "index": index, "place": place, "text": text} for place, text in enumerate(texts)]
