"""A task and a model that are small enough to compute by hand: fitting a straight line to numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.noise import Noise
from pipeline.rows import InputKind, each_row
from pipeline.task import Task
from pipeline.training.losses import Batch, Loss, Statistics


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    width: int = 4


class Line(nn.Module):
    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        self.net = nn.Sequential(nn.Linear(2, config.width), nn.Tanh(), nn.Linear(config.width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class LineTask(Task):
    noise: float = 0.1

    kind: ClassVar[str] = "line"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("error", "min")
    inputs: ClassVar[InputKind] = InputKind(suffixes=(".json",))
    result: ClassVar[str] = "y"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("y", pa.float32())])

    def prepare(self, inputs: pa.Table) -> pa.Table:
        found, errors = each_row("prepare", inputs["data"].to_pylist(), _numbers)
        x = [None if item is None else item["x"] for item in found]
        return pa.table({"x": pa.array(x, pa.list_(pa.float32())), "error": errors})

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        return pa.table({"y": model(torch.tensor(prepared["x"].to_pylist(), device=device)).cpu().numpy()})

    def encode(self, predicted: pa.Table) -> pa.Table:
        return predicted

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        found, errors = each_row("prepare", inputs["data"].to_pylist(), _numbers)
        x = [None if item is None else item["x"] for item in found]
        y = [None if item is None else item["y"] for item in found]
        return pa.table({"x": pa.array(x, pa.list_(pa.float32())), "y": pa.array(y, pa.float32()), "error": errors})

    def collate(self, samples: pa.Table) -> Batch:
        return {name: torch.tensor(samples[name].to_pylist(), dtype=torch.float32) for name in ("x", "y")}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        return batch | {"x": batch["x"] + self.noise * noise.normal(2)}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        units = 1 + (batch["y"] > 0).sum() * 2  # differs from worker to worker
        return Loss(total=(model(batch["x"]) - batch["y"]).square().sum(), units=units)

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        squared = (model(batch["x"]) - batch["y"]).double().square()
        return {"squared": squared.sum(), "count": torch.tensor(float(len(squared)), dtype=torch.float64)}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        return {"error": float(statistics["squared"] / statistics["count"])}


def _numbers(data: bytes) -> dict:
    try:
        return json.loads(data)
    except ValueError as reason:
        raise InputError("bad_record", "not JSON") from reason


def samples(count: int, seed: int = 0) -> pa.Table:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator)
    y = torch.tanh(x[:, 0] - 0.5 * x[:, 1])
    return pa.table({"x": pa.array(x.tolist(), pa.list_(pa.float32())), "y": pa.array(y.tolist(), pa.float32())})
