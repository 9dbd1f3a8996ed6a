"""Image segmenters beside each other: parameters, multiply-adds, and images per second on a CPU.

All networks have their default settings and see one image of 360 x 480 at a time, in inference mode, with one thread.
Rates are images by second of processor time, so that other programs take little part in them. The networks take turns,
and each rate is the median of the rounds. Bfloat16 is by autocast.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import record
from pipeline import models
from pipeline.models.segmenters.interface import Segmenter

CLASSES = 11
SIZE = (360, 480)
_REFERENCE = "unet"
#: Name of a row to the settings that differ from the defaults.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in models.names_of(Segmenter)},
    "deeplabv3plus, output stride 8": ("deeplabv3plus", {"output_stride": 8}),
    "light, width 32": ("light", {"width": 32}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="a minute on two cores")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rounds = 3 if arguments.small else arguments.rounds
    torch.set_num_threads(1)
    networks = {row: _built(name, settings) for row, (name, settings) in VARIANTS.items()}
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    rates = {kind: _rates(networks, image, rounds, kind == "bfloat16") for kind in ("float32", "bfloat16")}
    rows = [
        {
            "network": row,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "giga_multiply_adds": _multiply_adds(network, image) / 1e9,
            **{f"images_per_s_{kind}": found[row] for kind, found in rates.items()},
            **{f"to_{_REFERENCE}_{kind}": found[row] / found[_REFERENCE] for kind, found in rates.items()},
        }
        for row, network in networks.items()
    ]
    headline = {"image": f"{SIZE[0]}x{SIZE[1]}", "rounds": rounds}
    record("architectures", rows, headline, " ".join((__doc__ or "").split()), small=arguments.small)


def _built(name: str, settings: dict[str, Any]) -> nn.Module:
    given = dict(settings)
    if "width" in given:
        given |= models.MODELS[name][0].of_width(given.pop("width"))
    torch.manual_seed(0)
    return models.build(name, {"classes": CLASSES, **given}).eval()


def _rates(networks: dict[str, nn.Module], image: Tensor, rounds: int, autocast: bool) -> dict[str, float]:
    """Images per second of each network."""
    seconds: dict[str, list[float]] = {row: [] for row in networks}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for _ in range(rounds + 1):
            for row, network in networks.items():
                seconds[row].append(_seconds(lambda network=network: network(image)))
    return {row: 1 / statistics.median(found[1:]) for row, found in seconds.items()}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _multiply_adds(network: nn.Module, image: Tensor) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() / 2


if __name__ == "__main__":
    main()
