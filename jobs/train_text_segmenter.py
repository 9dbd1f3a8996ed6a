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
from pipeline.source.labelled import all_inputs, held_out
from pipeline.text.task import TextSegmentation


@dataclass(frozen=True, kw_only=True)
class TrainTextSegmenter(TrainSettings):
    """Train a text segmenter on documents with known paragraphs."""

    documents: str
    """Documents with paragraphs: JSONL or Parquet records with the fields text and paragraphs."""
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


def work(settings: TrainTextSegmenter) -> dict[str, Any]:
    train.claim(settings.out)
    copies: tuple[train.CopyWeights, ...] = ()
    if settings.init is not None:
        copies = (train.CopyWeights.of(package.load(settings.init, TextSegmentation.kind), init_from_tagger),)
    inputs = all_inputs(settings.documents, TextSegmentation.inputs)
    learned, validation = held_out(inputs, settings.validation_fraction)
    keep = None if settings.split is None else RecordSplit(settings.split)

    with session(settings.cluster):
        return train_package(
            settings,
            task=settings.task,
            model_name="sentence_tagger",
            model_config=config.to_dict(settings.model),
            train_config=settings.train,
            training=Preparation(learned, settings.task, settings.out, part=TRAINING, keep=keep),
            validation=Preparation(validation, settings.task, settings.out, part=VALIDATION, keep=keep),
            data={"documents": settings.documents, "split": settings.split},
            copies=copies,
        )


if __name__ == "__main__":
    main(TrainTextSegmenter, work)
