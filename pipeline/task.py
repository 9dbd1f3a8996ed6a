"""The interface of tasks. A task turns rows into tensors and tensors into rows, batch by batch, also in training.

A task is a frozen dataclass of settings, so it can be sent to workers and stored in a model package as a dict. The
stream and the trainer use only this interface; images and text implement it.

Batches of columns are a ``pyarrow.Table``. An *input* has the columns of `INPUT_SCHEMA`. A row that fails is never
dropped: its column ``error`` has a struct, and the other columns are null.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pyarrow as pa
import torch
from torch import nn

from pipeline.noise import Noise
from pipeline.rows import InputKind
from pipeline.training.companion import Companion
from pipeline.training.losses import Batch, Loss, Statistics


class Task(ABC):
    """A kind of segmentation or training. Subclasses are frozen, keyword-only dataclasses whose fields are settings."""

    #: The kind of model packages that are trained and used with this task, such as ``image_segmenter``.
    kind: ClassVar[str]
    #: The metric by which early stopping and the best checkpoint are decided, and whether more or less is better.
    metric: ClassVar[tuple[str, Literal["max", "min"]]]
    #: The objects that the task reads, and the parts of containers that are inputs.
    inputs: ClassVar[InputKind]
    #: The column of `schema` with the result, such as ``mask``. It is null if the row failed.
    result: ClassVar[str]
    #: Columns of `schema` that are compressed already, by their dotted names in Parquet, such as ``mask.bytes``.
    stored_as_is: ClassVar[tuple[str, ...]] = ()
    #: What `truth` counts, in the singular, for messages.
    truth_unit: ClassVar[str] = "label"
    #: Version of the rules that make rows. It is raised when the same settings and weights give other rows than before.
    results: ClassVar[int] = 1

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The task's own columns of the output table, in order."""

    @property
    def huggingface_features(self) -> dict[str, Any]:
        """Hugging Face features of the columns for which the Arrow type is not enough, by column."""
        return {}

    @property
    def description(self) -> dict[str, Any]:
        """What the values of the result mean, for readers of a table's files, as values for JSON."""
        return {}

    @abstractmethod
    def prepare(self, inputs: pa.Table) -> pa.Table:
        """On a CPU: turn inputs (`INPUT_SCHEMA`) into small prepared columns and ``error``; same rows, same order."""

    @abstractmethod
    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """On the device: turn prepared columns of good rows into predicted columns; same rows. They must be small, for
        example class ids but no logits.

        The result of a row must not depend on the other rows of the batch.
        """

    @abstractmethod
    def encode(self, predicted: pa.Table) -> pa.Table:
        """On a CPU: turn predicted columns of good rows into the columns of `schema`; same rows."""

    @property
    def block_rows(self) -> int | None:
        """Largest number of inputs that a run works on together, where each may take long; None: as the run says."""
        return None

    def missing(self) -> str | None:
        """What this process lacks to do the task, as an error for people; None if it lacks nothing."""
        return None

    def disagreement(self, predicted: pa.Table, other: pa.Table) -> float:
        """Share of the results that differ between two results of `predict` for the same rows, in [0, 1].

        1 unless a task knows better: its results count as different.
        """
        return 1.0

    def unusual(self, rows: pa.Table) -> list[str]:
        """What is unusual about the rows of `encode`, as a name for each row that has it. A run counts the names."""
        return []

    def unusual_text(self, name: str) -> str:
        """What a name of `unusual` means, as the end of a sentence that begins with a number of inputs."""
        raise KeyError(name)

    @abstractmethod
    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """On a CPU: turn labelled inputs into training samples. There may be more or fewer; each row has ``error``."""

    @abstractmethod
    def collate(self, samples: pa.Table) -> Batch:
        """Turn rows of `prepare_samples`, without ``error``, into CPU tensors (b, ...)."""

    def truth(self, samples: pa.Table) -> dict[str, int]:
        """How much of each class the labels of samples hold: numbers of `truth_unit` by class, also those that are 0.

        ``samples`` are rows of `prepare_samples`, without ``error``. Empty if the task learns without labels.
        """
        return {}

    def start(self, model: nn.Module, samples: Iterable[pa.Table]) -> None:
        """Initialise a new model from the training samples, on the CPU, before the first step of a training.

        ``samples`` are batches of rows of `prepare_samples`, without ``error``, in random order. The result must be
        deterministic.
        """
        return

    def renew(self, model: nn.Module, step: int, steps: int, seed: int) -> list[str]:
        """Before a step of a training, the first being 0: give some parameters new first values, in place.

        Returns their names, of which the trainer then forgets its momentum and its averages, and all evaluations so
        far. What is done must be a function of the arguments alone.
        """
        return []

    @abstractmethod
    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """Apply random changes to a training batch, on its device."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The training objective of a batch."""

    def companion(self, model: nn.Module) -> Companion | None:
        """A new companion for training this model. None if the loss has no state and couples no samples."""
        return None

    def calibrated(self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()) -> Task:
        """The task as it is stored in the package, after training: with settings that depend on the trained model.

        ``held_out`` are batches of the validation samples (rows of `prepare_samples` without ``error``), ``learned``
        of some hundred training samples.
        """
        return self

    @property
    def remarks(self) -> dict[str, str]:
        """What is to be known of columns of `schema`, by name: why one is always null, or how good it is."""
        return {}

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """The statistics of one batch for `summarize`: float64 tensors that add up over batches and workers."""

    @abstractmethod
    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """The metrics from the sum of all statistics. It has the key that `metric` names."""
