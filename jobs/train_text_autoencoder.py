"""Train an autoencoder of sentences on documents, without labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from jobs.training import TrainSettings, train_package
from pipeline import config
from pipeline.distributed import train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation, RecordSplit
from pipeline.distributed.session import session
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_vae import SentenceVAEConfig
from pipeline.source.labelled import all_inputs, held_out
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.vocabulary import vocabulary_of


@dataclass(frozen=True, kw_only=True)
class TrainTextAutoencoder(TrainSettings):
    """Train an autoencoder of sentences on documents, without labels."""

    documents: str
    """Documents of any form that segment_documents reads: a folder, JSONL or Parquet records with the field text. Known
    paragraphs are not looked at."""
    split: str | None = None
    """Use only records whose field split has this value; null: all records."""
    task: SentenceReconstruction = field(default_factory=SentenceReconstruction)
    model: SentenceVAEConfig = field(default_factory=SentenceVAEConfig)
    """The settings of the network. model.vocabulary is the largest number of subwords that are learned."""
    train: train.DistributedTrainConfig = field(
        default_factory=lambda: train.DistributedTrainConfig(
            epochs=3, batch_rows=16, learning_rate=2e-3, ema_decay=0.99, weight_decay=0.0
        )
    )


def work(settings: TrainTextAutoencoder) -> dict[str, Any]:
    train.claim(settings.out)
    inputs = all_inputs(settings.documents, SentenceReconstruction.inputs)
    learned, validation = held_out(inputs, settings.validation_fraction)
    keep = None if settings.split is None else RecordSplit(settings.split)
    if lack := settings.task.missing():
        raise RequestError(lack)
    pieces = settings.task.vocabulary or vocabulary_of(
        learned, settings.task.inputs, settings.model.vocabulary, keep, ocr=settings.task.ocr
    )
    task = dataclasses.replace(settings.task, vocabulary=pieces)
    model = dataclasses.replace(settings.model, vocabulary=task.subwords().size)
    say(f"a vocabulary of {model.vocabulary} subwords")

    with session(settings.cluster):
        return train_package(
            settings,
            task=task,
            model_name="sentence_vae",
            model_config=config.to_dict(model),
            train_config=settings.train,
            training=Preparation(learned, task, settings.out, part=TRAINING, keep=keep),
            validation=Preparation(validation, task, settings.out, part=VALIDATION, keep=keep),
            data={"documents": settings.documents, "split": settings.split},
        )


if __name__ == "__main__":
    main(TrainTextAutoencoder, work)
