"""Trains an autoencoder of sentences in this process: what `train_text_autoencoder` does, without a cluster and without
checkpoints, where starting one takes longer than the training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline import config, package
from pipeline.models.documents.sentence_vae import SentenceVAE, SentenceVAEConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.subwords import FIRST_PIECE, learn_pieces
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer

_HELD_OUT = 50  # every so many documents is held out to choose the weights by


def train_here(
    documents: Sequence[str], out: Path, settings: dict[str, Any], say: Callable[[str], None] = print
) -> dict[str, float]:
    """Train on texts and write a package, unless it is there. ``settings``: options of the job that begin with task,
    model and train. Returns its validation metrics, the number of parameters and the CPU seconds."""
    summary = out / "here.json"
    if summary.exists():
        return json.loads(summary.read_text())
    started = time.process_time()

    def of(group: str) -> dict[str, Any]:
        return {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{group}.")}

    network = SentenceVAEConfig(**of("model"))
    pieces = learn_pieces(documents, network.vocabulary - FIRST_PIECE)
    task = SentenceReconstruction(vocabulary=pieces, **of("task"))
    network = SentenceVAEConfig(**(config.to_dict(network) | {"vocabulary": task.subwords().size}))
    train = config.from_dict(TrainConfig, {"weight_decay": 0.0, "ema_decay": 0.99} | of("train"))
    torch.set_num_threads(1)
    torch.manual_seed(train.seed)
    model = SentenceVAE(network)
    learned, held_out = (_samples(task, part) for part in _parts(documents))
    task.start(model, learned.shuffled(train.seed, train.batch_rows))
    trainer = Trainer(task, model, train, learned, held_out)
    for step in trainer.run():
        if step.step % 50 == 0 or step.metrics:
            spent = time.process_time() - started
            say(f"step {step.step}/{step.steps}, {spent:.0f} CPU s: {step.losses | (step.metrics or {})}")
    best = trainer.best_model()
    card = {"metrics": trainer.best_metrics, "settings": settings, "documents": len(documents)}
    package.save(str(out), model_name="sentence_vae", model=best, task=trainer.calibrated_task(best), card=card)
    found = trainer.best_metrics | {"cpu_seconds": time.process_time() - started}
    found |= {"parameters": sum(parameter.numel() for parameter in best.parameters()), "steps": trainer.step}
    summary.write_text(json.dumps(found))
    return found


def _parts(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to learn from, and those that are held out."""
    held = list(documents[_HELD_OUT // 2 :: _HELD_OUT]) or list(documents[-1:])
    return [text for text in documents if text not in held], held


def _samples(task: SentenceReconstruction, documents: Sequence[str]) -> Samples:
    data = [json.dumps({"text": text}).encode() for text in documents]
    columns = {"data": data, "format": ["json"] * len(data), "label": [None] * len(data)}
    found = task.prepare_samples(pa.table(columns, schema=INPUT_SCHEMA))
    assert found["error"].null_count == found.num_rows
    return Samples([found.drop_columns(["error"])])
