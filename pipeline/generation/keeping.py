"""Storing a sampler as a folder with ``sampler.json`` and ``sampler.safetensors``; nothing is pickled."""

from __future__ import annotations

import hashlib
import json

import safetensors
import safetensors.torch

from pipeline import config, storage
from pipeline.errors import RequestError
from pipeline.generation.fitting import build_sampler
from pipeline.models.autoencoders.samplers import SAMPLERS, Sampler

FORMAT = 1


def save(uri: str, sampler: Sampler, *, model: str, seed: int) -> None:
    """Write a sampler. ``model`` is the digest of the package to whose latents it was fitted.

    As in a model package, the description is written last and contains the hash of the tensors.
    """
    weights = safetensors.torch.save({name: value.contiguous() for name, value in sampler.state_dict().items()})
    described = {
        "format": FORMAT,
        "sampler": {"name": name_of(sampler), "config": config.to_dict(sampler.config)},
        "shapes": [list(shape) for shape in sampler.shapes],
        "model": model,
        "seed": seed,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    storage.write(storage.join(uri, "sampler.safetensors"), weights)
    storage.write(storage.join(uri, "sampler.json"), (json.dumps(described, indent=2) + "\n").encode())


def load(uri: str, model: str) -> Sampler:
    """Read a sampler. `RequestError` if it does not exist, is broken, or is for another model."""
    try:
        described = json.loads(storage.read(storage.join(uri, "sampler.json")))
        weights = storage.read(storage.join(uri, "sampler.safetensors"))
    except (OSError, ValueError) as reason:
        raise RequestError(f"no sampler at {uri}: sampler.json or sampler.safetensors cannot be read") from reason
    keys = {"format", "sampler", "shapes", "model", "seed", "weights_sha256"}
    if not isinstance(described, dict) or set(described) != keys or described["format"] != FORMAT:
        raise RequestError(f"sampler at {uri}: sampler.json must be of format {FORMAT}")
    if described["model"] != model:
        raise RequestError(f"sampler at {uri} must be of model {model}, got {described['model']}")
    if hashlib.sha256(weights).hexdigest() != described["weights_sha256"]:
        raise RequestError(f"sampler at {uri}: sampler.safetensors is not the one that sampler.json names")
    settings = config.from_dict(SAMPLERS[described["sampler"]["name"]][0], described["sampler"]["config"])
    sampler = build_sampler(settings, [(d, y, x) for d, y, x in described["shapes"]])
    sampler.load_state_dict(safetensors.torch.load(weights))
    return sampler.requires_grad_(False)


def name_of(sampler: Sampler) -> str:
    """The name of a sampler's class in `SAMPLERS`."""
    return next(name for name, (_, sampler_class) in SAMPLERS.items() if type(sampler) is sampler_class)
