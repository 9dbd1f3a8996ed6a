"""Task: turns rows into tensors and tensors into rows, batch by batch, for the stream and for training alike.

A task is a frozen dataclass of settings, so it travels to workers and into a model package as a dict. The stream and
the trainer know this interface only; images and text implement it.

Column batches are ``pyarrow.Table``. An *input* has the columns of `INPUT_SCHEMA`. A failed row carries a struct in its
``error`` column and nulls elsewhere; it never disappears.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.errors import InputError

ERROR_TYPE = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])

#: What a task is given: the bytes of one input, how they are wrapped (``object``: as stored; ``json``: one record with
#: ``text`` and perhaps ``doc_id`` and ``paragraphs``), and in training the bytes of its label where labels are files.
INPUT_SCHEMA = pa.schema([("data", pa.large_binary()), ("format", pa.string()), ("label", pa.large_binary())])

Batch = dict[str, Tensor]
Statistics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A sum over ``units`` (valid pixels, sentences, images) and their number, so that workers can share a batch.

    The loss that is minimised is ``total.sum over workers / units.sum over workers``. ``logs`` are further sums over
    the same units, for display; ``sums`` are vectors of such sums, for a `Companion`.
    """

    total: Tensor
    units: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)


class Noise:
    """Random numbers that belong to a sample, not to a worker: a function of (seed, step, sample) alone.

    ``samples`` are the dataset indices of the rows of one batch. Draws happen on the CPU, one generator for each
    sample, so that the same numbers come out on any device and for any split of the batch over workers.
    """

    def __init__(self, seed: int, step: int, samples: Iterable[int]) -> None:
        self.step = step
        self._generators = [torch.Generator().manual_seed(_mix(seed, step, int(sample))) for sample in samples]

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal, (b, *shape)."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self._generators]).to(device)

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform in [0, 1), (b, *shape)."""
        return torch.stack([torch.rand(*shape, generator=g) for g in self._generators]).to(device)


class Companion(nn.Module, ABC):
    """What training needs beside the model and a package does not hold: a discriminator, a cost that couples samples.

    Its parameters are trained with the model's, by the gradients of the same `Loss`; its buffers are part of the
    checkpoint and change in `absorb` only, so that they are the same on all workers.
    """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """In place of `Task.loss`."""

    def couple(
        self, shares: dict[str, Tensor], means: dict[str, Tensor], units: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """A cost that is a function of the means of ``Loss.sums`` over the global batch, and no sum over samples.

        ``shares`` of the workers add up to ``means``, which are detached. The first result's gradient with respect to
        the shares is the cost's with respect to the means; the second names the cost's parts, and is part of the loss.
        """
        return None, {}

    def absorb(self, means: dict[str, Tensor]) -> None:
        """After each step, the means of ``Loss.sums`` over the global batch, detached."""


class Task(ABC):
    """One kind of work. Subclasses are frozen, keyword-only dataclasses whose fields are their settings."""

    #: The kind of model package that this task makes and reads, such as ``image_segmenter``.
    kind: ClassVar[str]
    #: The metric that early stopping and the best checkpoint look at, and which way is better.
    metric: ClassVar[tuple[str, Literal["max", "min"]]]
    #: Name endings, lower case and without a compression's, of the objects in a folder that are its inputs.
    suffixes: ClassVar[tuple[str, ...]]

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


def error_value(stage: str, error: InputError) -> dict[str, str]:
    """A row's ``error`` struct."""
    return {"stage": stage, "code": error.code, "message": error.message}


def each_row(stage: str, rows: Iterable[Any], work: Callable[[Any], Any]) -> tuple[list[Any], pa.Array]:
    """``work`` on every row: its results (None where it failed) and the ``error`` column.

    `InputError` fails its row. Running out of memory fails its row. Any other exception is a defect of ours; it fails
    its row as ``internal`` and names the exception's class, never its text, which may differ from run to run.
    """
    results: list[Any] = []
    errors: list[dict[str, str] | None] = []
    for row in rows:
        result, error = None, None
        try:
            result = work(row)
        except InputError as reason:
            error = reason
        except MemoryError:
            error = InputError("out_of_memory", f"not enough memory to {stage} this input")
        except Exception as reason:
            error = InputError("internal", f"{stage} failed with {type(reason).__name__}")
        results.append(result)
        errors.append(None if error is None else error_value(stage, error))
    return results, pa.array(errors, ERROR_TYPE)


def _mix(seed: int, step: int, sample: int) -> int:
    """64 well-spread bits from three integers (SplitMix64 finaliser, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = 0
    for part in (seed, step, sample):
        value = (value + (part & mask) + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return value
