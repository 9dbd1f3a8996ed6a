"""How fast this machine trains a segmenter: measured for a few steps, since no table of processors says it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.images.losses import parse_loss, segmentation_loss

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

_HEIGHT_PX, _WIDTH_PX, _ROWS = 160, 208, 8
_STEPS = 3
_OBJECTIVE = "cross_entropy + 0.5 * dice"
_MEMORY_SHARE = 0.8  # of the free memory of a GPU, since larger crops and fragments need some, too
_WORTH = 1.1  # times as fast, from which bfloat16 is used


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a network trains on a device."""

    pixels_per_s: float
    """Pixels of input per second in training."""
    precision: Precision
    """The precision that gives this speed."""
    memory_px: int | None
    """Pixels of input that a step may have so that they fit into the memory of a GPU; None on CPUs."""


def training_speed(model: nn.Module, device: torch.device) -> Speed:
    """Train a few steps in both precisions. The model's weights change."""
    model = model.to(device).train()
    found: dict[Precision, float] = {}
    memory = []
    for precision in PRECISIONS:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        found[precision] = _measured(model, device, precision)
        if device.type == "cuda":
            memory.append((torch.cuda.max_memory_allocated(device) - before) / (_ROWS * _HEIGHT_PX * _WIDTH_PX))
    precision = "bfloat16" if found["bfloat16"] > _WORTH * found["float32"] else "float32"
    fitting = None
    if memory:
        free, _ = torch.cuda.mem_get_info(device)
        fitting = int(_MEMORY_SHARE * free / max(1.0, memory[PRECISIONS.index(precision)]))
    return Speed(pixels_per_s=found[precision], precision=precision, memory_px=fitting)


def _measured(model: nn.Module, device: torch.device, precision: str) -> float:
    image = torch.rand(_ROWS, 3, _HEIGHT_PX, _WIDTH_PX, device=device)
    terms, optimizer = parse_loss(_OBJECTIVE), torch.optim.AdamW(model.parameters(), lr=1e-4)
    best = 0.0
    for step in range(_STEPS + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(image).float()
            label = torch.randint(logits.shape[1], (_ROWS, _HEIGHT_PX, _WIDTH_PX), device=device)
            total, units, _ = segmentation_loss(logits, label, terms)
        optimizer.zero_grad()
        (total / units.sum()).backward()
        optimizer.step()
        float(total.detach())  # waits for the device
        if step:
            best = max(best, image[:, 0].numel() / (time.perf_counter() - started))
    return best
