"""Model packages: folders with ``config.json``, ``model.safetensors`` and ``card.md``. Nothing in them is pickled.

``config.json`` is written last and contains the hash of the weights, so an incomplete package is never read. The
package of an imported network also has its files, in the folder ``files``; the network's settings contain their hashes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from pipeline import config, models, storage
from pipeline.errors import RequestError
from pipeline.models.segmenters.onnx import Onnx
from pipeline.task import Task

FORMAT = 1
#: Before the name of a package that is a part of this project, as in ``builtin:paragraphs-en``.
BUILTIN = "builtin:"
_FILES = "files"


@dataclass(frozen=True, kw_only=True)
class Package:
    """The description of a package. ``digest`` (32 hex digits) is the hash of its settings and weights."""

    uri: str
    kind: str
    model_name: str
    model_config: dict[str, Any]
    task: dict[str, Any]
    weights_sha256: str
    digest: str

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, after checking their hash."""
        try:
            data = storage.read(storage.join(place_of(self.uri), "model.safetensors"))
        except OSError as reason:
            raise RequestError(f"package {self.uri}: model.safetensors cannot be read") from reason
        if hashlib.sha256(data).hexdigest() != self.weights_sha256:
            raise RequestError(f"package {self.uri}: model.safetensors is not the one that config.json names")
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as reason:
            raise RequestError(f"package {self.uri}: model.safetensors is broken") from reason

    def file(self, name: str, sha256: str) -> bytes:
        """The bytes of a file of an imported network, after checking their hash."""
        try:
            data = storage.read(storage.join(place_of(self.uri), _FILES, name))
        except OSError as reason:
            raise RequestError(f"package {self.uri}: {_FILES}/{name} cannot be read") from reason
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RequestError(f"package {self.uri}: {_FILES}/{name} is not the one that config.json names")
        return data

    def model(self) -> nn.Module:
        """The model with its weights and files, on the CPU, in eval mode."""
        model = models.build(self.model_name, self.model_config)
        weights = self.weights()
        given, own = ({name: value.shape for name, value in found.items()} for found in (weights, model.state_dict()))
        wrong = sorted(name for name in given.keys() | own.keys() if given.get(name) != own.get(name))
        if wrong:
            raise RequestError(f"package {self.uri}: weights do not fit the model, see {wrong[0]!r}")
        model.load_state_dict(weights)
        for part in model.modules():
            if isinstance(part, Onnx):
                part.attach(self.file)
        return model.eval()


def save(
    uri: str,
    *,
    model_name: str,
    model: nn.Module,
    task: Task,
    card: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Package:
    """Write a package and return its description. ``card``: data, metrics and command, as nested plain values.
    ``files``: those of an imported network, by name."""
    weights, settings = _content(model_name, model, task)
    for name, data in (files or {}).items():
        storage.write(storage.join(uri, _FILES, name), data)
    storage.write(storage.join(uri, "model.safetensors"), weights)
    storage.write(storage.join(uri, "card.md"), _card(task.kind, model_name, model, card).encode())
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    storage.write(storage.join(uri, "config.json"), text.encode())
    return _package(uri, settings)


def planned_digest(*, model_name: str, model: nn.Module, task: Task) -> str:
    """The digest that the package would have if it were saved."""
    return config.digest(_content(model_name, model, task)[1])


def _content(model_name: str, model: nn.Module, task: Task) -> tuple[bytes, dict[str, Any]]:
    """The bytes of model.safetensors, and what config.json says."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    return weights, {
        "format": FORMAT,
        "kind": task.kind,
        "model": {"name": model_name, "config": models.settings_of(model)},
        "task": config.to_dict(task),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }


def load(uri: str, *kinds: str) -> Package:
    """Read the description of a package. `RequestError` if there is none, or if it is of none of the given kinds."""
    where = storage.join(place_of(uri), "config.json")
    try:
        settings = json.loads(storage.read(where))
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"no model package at {uri}: it has no config.json") from reason
    except OSError as reason:
        raise RequestError(f"model package at {uri}: config.json cannot be read") from reason
    except ValueError as reason:
        raise RequestError(f"model package at {uri}: config.json is not JSON") from reason
    keys = {"format", "kind", "model", "task", "weights_sha256"}
    if not isinstance(settings, dict) or set(settings) != keys:
        raise RequestError(f"model package at {uri}: config.json must have the keys {', '.join(sorted(keys))}")
    if settings["format"] != FORMAT:
        raise RequestError(f"model package at {uri}: format must be {FORMAT}, got {settings['format']!r}")
    _check_members(uri, settings)
    package = _package(uri, settings)
    if kinds and package.kind not in kinds:
        rule = " or ".join(repr(kind) for kind in kinds)
        raise RequestError(f"model package at {uri} must be of kind {rule}, got {package.kind!r}")
    return package


def place_of(uri: str) -> str:
    """Where the files of a package lie: its URI, or, of one that is a part of this project, their folder in this
    process. `RequestError` if there is no such part."""
    if not uri.startswith(BUILTIN):
        return uri
    name, own = uri.removeprefix(BUILTIN), resources.files("pipeline") / "builtin"
    known = sorted(entry.name for entry in own.iterdir() if entry.is_dir() and (entry / "config.json").is_file())
    if name not in known:
        raise RequestError(f"model {uri!r} must be one of {', '.join(BUILTIN + item for item in known)}")
    return str(own / name)


def _check_members(uri: str, settings: dict[str, Any]) -> None:
    """`RequestError` that names the first member of config.json that is not what `save` writes."""
    model = settings["model"] if isinstance(settings["model"], dict) else {}
    members = {
        "kind": (settings["kind"], str),
        "model.name": (model.get("name"), str),
        "model.config": (model.get("config"), dict),
        "task": (settings["task"], dict),
        "weights_sha256": (settings["weights_sha256"], str),
    }
    for name, (value, wanted) in members.items():
        if not isinstance(value, wanted):
            rule = "a string" if wanted is str else "an object"
            raise RequestError(f"model package at {uri}: {name} in config.json must be {rule}, got {value!r}")


def _package(uri: str, settings: dict[str, Any]) -> Package:
    return Package(
        uri=uri if uri.startswith(BUILTIN) else storage.canonical(uri),
        kind=settings["kind"],
        model_name=settings["model"]["name"],
        model_config=settings["model"]["config"],
        task=settings["task"],
        weights_sha256=settings["weights_sha256"],
        digest=config.digest(settings),
    )


def _card(kind: str, model_name: str, model: nn.Module, card: Mapping[str, Any]) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("torch", "ray", "parquetry")}
    lines = [f"# {kind}: {model_name}, {parameters:,} parameters", ""]
    for title, content in {**card, "versions": versions}.items():
        lines += [f"## {title}", ""]
        if isinstance(content, Mapping):
            lines += [f"- {key}: {value}" for key, value in content.items()]
        else:
            lines.append(str(content))
        lines.append("")
    return "\n".join(lines)
