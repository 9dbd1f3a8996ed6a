"""How fast this machine trains a segmenter: measured for a few steps, since no table of processors says it."""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import nn

from pipeline.images.losses import parse_loss, segmentation_loss

Precision = Literal["float32", "bfloat16"]

_HEIGHT_PX, _WIDTH_PX, _ROWS = 160, 208, 8
_STEPS = 3
_OBJECTIVE = "cross_entropy + 0.5 * dice"
_WORTH = 1.1  # times as fast, from which bfloat16 is used


def training_speed(model: nn.Module, device: torch.device) -> tuple[float, Precision]:
    """Pixels of input per second in training, and the precision that gives it. The model's weights change."""
    model = model.to(device).train()
    found = {precision: _measured(model, device, precision) for precision in ("float32", "bfloat16")}
    if found["bfloat16"] > _WORTH * found["float32"]:
        return found["bfloat16"], "bfloat16"
    return found["float32"], "float32"


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
