"""What `sample` does with an autoencoder of sentences: sentences, the way between two, and paragraphs."""

from __future__ import annotations

import io
import time
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.console import say
from pipeline import config, storage
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_vae import SentenceVAE
from pipeline.models.documents.writing import WritingConfig
from pipeline.package import Package
from pipeline.text.drawing import TEXTS, Writer, rows
from pipeline.text.reconstruction import SentenceReconstruction

_PARAGRAPHS_TEXT = (
    "Paragraphs: the latents of each sentence follow from those of the sentence before by a linear autoregression that "
    "was fitted to documents; each sentence is then written on its own."
)


class Settings(Protocol):
    """The settings of `sample` that count here."""

    @property
    def out(self) -> str: ...
    @property
    def images(self) -> str | None: ...
    @property
    def sampler(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def pictures(self) -> tuple[Any, ...] | None: ...
    @property
    def from_text(self) -> str | None: ...
    @property
    def to_text(self) -> str | None: ...
    @property
    def steps(self) -> int: ...
    @property
    def paragraphs(self) -> int: ...
    @property
    def sentences(self) -> int: ...
    @property
    def writing(self) -> WritingConfig: ...


def sample_text(settings: Settings, described: Package) -> dict[str, Any]:
    """Write ``samples.parquet`` and ``samples.txt``; returns the summary. `RequestError` if the settings ask for
    images."""
    if settings.sampler != "prior" or settings.images is not None or settings.pictures is not None:
        rule = "an autoencoder of sentences has the sampler prior, and neither images nor pictures"
        raise RequestError(f"model {described.uri!r}: {rule}")
    started = time.monotonic()
    task, model = config.from_dict(SentenceReconstruction, described.task), described.model()
    assert isinstance(model, SentenceVAE), described.model_name
    writer = Writer(task, model, settings.writing, settings.seed)
    say(f"writing {settings.count} sentences and {settings.paragraphs} paragraphs of {settings.sentences}")
    samples = writer.samples(settings.count)
    parts = [("sample", index, [text]) for index, text in enumerate(samples)]
    page = ["Sentences of the prior", "", *samples, ""]
    if settings.from_text is not None and settings.to_text is not None:
        between = writer.interpolation(settings.from_text, settings.to_text, settings.steps)
        parts.append(("interpolation", 0, between))
        page += [f"From {settings.from_text!r} to {settings.to_text!r}", "", *between, ""]
    page += [_PARAGRAPHS_TEXT, ""] if settings.paragraphs else []
    for index in range(settings.paragraphs):
        paragraph = writer.paragraph(index, settings.sentences)
        parts.append(("paragraph", index, paragraph))
        page += [" ".join(paragraph), ""]
    origin = {"seed": settings.seed, "model": described.digest}
    table = pa.Table.from_pylist([row | origin for part in parts for row in rows(*part)], schema=TEXTS)
    pq.write_table(table, (data := io.BytesIO()))
    found = {name: storage.join(settings.out, f"samples.{name}") for name in ("parquet", "txt")}
    storage.write(found["parquet"], data.getvalue())
    storage.write(found["txt"], ("\n".join(page)).encode())
    return {
        "status": "done",
        **origin,
        "count": settings.count,
        "samples": found["parquet"],
        "text": found["txt"],
        "seconds": round(time.monotonic() - started, 1),
    }
