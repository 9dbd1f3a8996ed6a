"""Task: turns rows into tensors and tensors into rows, batch by batch, for the stream and for training alike.

A task is a frozen dataclass of settings, so it travels to workers and into a model package as a dict. The stream and
the trainer know this interface only; images and text implement it.

Column batches are ``pyarrow.Table``. An *input* has the columns of `INPUT_SCHEMA`. A failed row carries a struct in its
``error`` column and nulls elsewhere; it never disappears.
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
    """One kind of work. Subclasses are frozen, keyword-only dataclasses whose fields are their settings."""

    #: The kind of model package that this task makes and reads, such as ``image_segmenter``.
    kind: ClassVar[str]
    #: The metric that early stopping and the best checkpoint look at, and which way is better.
    metric: ClassVar[tuple[str, Literal["max", "min"]]]
    #: Which objects the task reads, and what in a container is one input.
    inputs: ClassVar[InputKind]
    #: The column of `schema` that holds the result, such as ``mask``. Null where a row failed.
    result: ClassVar[str]
    #: Columns of `schema` whose bytes are compressed already, by their dotted names in Parquet (``mask.bytes``).
    stored_as_is: ClassVar[tuple[str, ...]] = ()
    #: Which rules make the rows: raised when equal settings and weights give other rows than before.
    results: ClassVar[int] = 1

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The task's own columns of the output table, in order, with any file metadata (such as HF features)."""

    @property
    def features(self) -> dict[str, Any]:
        """Hugging Face features, by column, that do not follow from the column's Arrow type."""
        return {}

    @abstractmethod
    def prepare(self, inputs: pa.Table) -> pa.Table:
        """CPU: inputs (`INPUT_SCHEMA`, no failed rows) to small prepared columns and ``error``; same rows and order."""

    @abstractmethod
    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Device: prepared columns of good rows to predicted columns, same rows. Small things only, no float maps.

        Must not depend on what else is in the batch.
        """

    @abstractmethod
    def encode(self, predicted: pa.Table) -> pa.Table:
        """CPU: predicted columns of good rows to the columns of `schema`, same rows."""

    @abstractmethod
    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """CPU: labelled inputs to training samples: any number of rows, each with ``error``."""

    @abstractmethod
    def collate(self, samples: pa.Table) -> Batch:
        """Rows of `prepare_samples` (without ``error``) to CPU tensors, (b, ...)."""

    def start(self, model: nn.Module, samples: Iterable[pa.Table]) -> None:
        """Before the first step of a training, on the CPU: what a new model takes from batches of the training samples
        (rows of `prepare_samples` without ``error``, in random order). The same model and samples give the same."""
        return

    @abstractmethod
    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """Random changes of a training batch, on the device that it is on."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The training objective of a batch."""

    def companion(self, model: nn.Module) -> Companion | None:
        """A new companion to train this model with; None where the loss carries nothing from step to step."""
        return None

    def calibrated(self, model: nn.Module, held_out: Iterable[pa.Table]) -> Task:
        """The task as it goes into the package: with what only the trained model can tell of batches of its
        validation samples (rows of `prepare_samples` without ``error``)."""
        return self

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """What `summarize` needs from one batch, as float64 tensors that add up over batches and workers."""

    @abstractmethod
    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """Metrics from added statistics; has the key that `metric` names."""
