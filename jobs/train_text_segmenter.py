"""Train a text segmenter on documents with known paragraphs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.training import TrainSettings, train_package
from pipeline import config, models, package
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation, RecordSplit
from pipeline.distributed.session import session
from pipeline.models.documents.sentence_tagger import SentenceTaggerConfig, init_encoder, init_from_tagger
from pipeline.models.documents.sentence_vae import SentenceVAEConfig
from pipeline.source.corpora import corpus
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.task import TextSegmentation

#: What a worker prepares at once. A compressed file is read from its beginning for each block, so blocks are not small.
BLOCK_DOCUMENTS, BLOCK_BYTES = 4096, 8 << 20
_MAX_SUBWORDS = TextSegmentation.max_subwords


@dataclass(frozen=True, kw_only=True)
class TrainTextSegmenter(TrainSettings):
    """Train a text segmenter on documents with known paragraphs."""

    documents: list[str] | str
    """Documents with paragraphs: a folder, a glob, a file or an archive, as for segment_documents; records in JSONL or
    Parquet with the fields text and paragraphs, and files whose blocks or blank lines say where paragraphs begin. Can
    be given several times."""
    weights: list[float] | None = None
    """For each of several documents, how often its samples are drawn, compared with those of the others; null: all
    equally often."""
    init: str | None = None
    """URI of a package that training starts from: of a text segmenter, all its weights; of an autoencoder of sentences,
    its encoder, whose latents the segmenter reads and which does not learn. null: new weights."""
    split: str | None = None
    """Use only records whose field split has this value; null: all records."""
    task: TextSegmentation = field(default_factory=TextSegmentation)
    model: SentenceTaggerConfig = field(default_factory=SentenceTaggerConfig)
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(
            epochs=10, batch_rows=16, learning_rate=2e-3, ema_decay=0.99
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        config.check(self, "documents", bool(self.documents), "name at least one source")
        rule = f"be as many positive numbers as there are documents ({len(self.sources)}), or null"
        ok = self.weights is None or (len(self.weights) == len(self.sources) and all(0 < w < 1e6 for w in self.weights))
        config.check(self, "weights", ok, rule)

    @property
    def sources(self) -> list[str]:
        return [self.documents] if isinstance(self.documents, str) else list(self.documents)


def work(settings: TrainTextSegmenter) -> dict[str, Any]:
    train.claim(settings.out)
    task, model, copies = _start(settings)
    everything = corpus(settings.sources, settings.weights or (), TextSegmentation.inputs)
    keep = None if settings.split is None else RecordSplit(settings.split)
    training, validation = (
        Preparation(
            part.inputs,
            task,
            settings.out,
            part=name,
            keep=keep,
            block_rows=BLOCK_DOCUMENTS,
            block_bytes=BLOCK_BYTES,
            sources=part.sources,
        )
        for name, part in zip((TRAINING, VALIDATION), everything.held_out(settings.validation_fraction), strict=True)
    )

    with session(settings.cluster):
        return train_package(
            settings,
            task=task,
            model_name="sentence_tagger",
            model_config=config.to_dict(model),
            train_config=settings.train,
            training=training,
            validation=validation,
            sources=settings.sources,
            data={"documents": settings.documents, "split": settings.split}
            | ({} if settings.weights is None else {"weights": settings.weights}),
            copies=copies,
        )


def _start(
    settings: TrainTextSegmenter,
) -> tuple[TextSegmentation, SentenceTaggerConfig, tuple[train.CopyWeights, ...]]:
    """The task and the network with what the package of init decides, and the weights that it gives."""
    task, model = settings.task, settings.model
    given = bool(task.vocabulary) or model.encoder is not None
    config.check(settings, "init", settings.init is not None or not given, "be given with a vocabulary and an encoder")
    if settings.init is None:
        return task, model, ()
    found = package.load(settings.init, TextSegmentation.kind, SentenceReconstruction.kind)
    if found.kind == TextSegmentation.kind:
        known, settings_of_encoder = config.from_dict(TextSegmentation, found.task), found.model_config.get("encoder")
        copy = init_from_tagger
    else:
        known, settings_of_encoder = config.from_dict(SentenceReconstruction, found.task), found.model_config
        copy = init_encoder
    encoder = None if settings_of_encoder is None else config.from_dict(SentenceVAEConfig, settings_of_encoder)
    rule = f"be those of the package {settings.init!r}, or be left out"
    config.check(task, "vocabulary", task.vocabulary in ((), known.vocabulary), rule)
    config.check(task, "max_subwords", task.max_subwords in (_MAX_SUBWORDS, known.max_subwords), rule)
    config.check(model, "encoder", model.encoder in (None, encoder), rule)
    task = dataclasses.replace(task, vocabulary=known.vocabulary, max_subwords=known.max_subwords)
    model = dataclasses.replace(model, encoder=encoder)
    into = models.build("sentence_tagger", config.to_dict(model))
    return task, model, (train.CopyWeights.of(found, copy, into=into),)


if __name__ == "__main__":
    main(TrainTextSegmenter, work)
