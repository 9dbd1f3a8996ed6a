"""Train a text segmenter on documents with known paragraphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.training import TrainSettings, train_package
from pipeline import config, package
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation, RecordSplit
from pipeline.distributed.session import session
from pipeline.models.documents.sentence_tagger import SentenceTaggerConfig, init_from_tagger
from pipeline.source.corpora import corpus
from pipeline.text.task import TextSegmentation

#: What a worker prepares at once. A compressed file is read from its beginning for each block, so blocks are not small.
BLOCK_DOCUMENTS, BLOCK_BYTES = 4096, 8 << 20


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
    """URI of a text segmenter package whose weights training starts from; null: new weights."""
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
    copies: tuple[train.CopyWeights, ...] = ()
    if settings.init is not None:
        copies = (train.CopyWeights.of(package.load(settings.init, TextSegmentation.kind), init_from_tagger),)
    everything = corpus(settings.sources, settings.weights or (), TextSegmentation.inputs)
    keep = None if settings.split is None else RecordSplit(settings.split)
    training, validation = (
        Preparation(
            part.inputs,
            settings.task,
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
            task=settings.task,
            model_name="sentence_tagger",
            model_config=config.to_dict(settings.model),
            train_config=settings.train,
            training=training,
            validation=validation,
            sources=settings.sources,
            data={"documents": settings.documents, "split": settings.split}
            | ({} if settings.weights is None else {"weights": settings.weights}),
            copies=copies,
        )


if __name__ == "__main__":
    main(TrainTextSegmenter, work)
