"""Settings of a run: the digest that its rows carry, and why rows of other settings are redone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import config, storage
from pipeline.runs.life import read_json
from pipeline.task import Task


def settings_digest(task: Task, max_bytes: int) -> str:
    """Digest of every setting that can change a row, apart from the model package.

    A setting that was added to a class later does not count while it has its default (`config.added`), and the task's
    number of its rules counts from 2 on, so that tables of earlier versions stay valid.
    """
    described: dict[str, Any] = {"task": config.identity(task), "max_bytes": max_bytes}
    return config.digest(described | ({"results": task.results} if task.results > 1 else {}))


def described_settings(task: Task, max_bytes: int) -> dict[str, Any]:
    """The settings behind the digest, in full, to be compared with those of another run."""
    return {"task": config.to_dict(task), "max_bytes": max_bytes, "results": task.results}


def why_redone(sink: str, model: str, settings: str, now: Mapping[str, Any], package: str) -> str:
    """Why rows of a sink with this model and these settings do not count for a run.

    ``now``: `described_settings` of the run; ``package``: the digest of its model package. The runs of the sink say
    what their settings were.
    """
    if model != package:
        return f"the model was {model[:12]}, now {package[:12]}"
    folder = storage.join(sink, "runs")
    for name in reversed(storage.names(folder)):
        found = read_json(storage.join(folder, name, "config.json"))
        if found is not None and (found.get("digest"), found.get("settings")) == (model, settings):
            changes = differences(_settings_of(found), now)
            return "; ".join(changes) or "the settings have another digest, but nothing in them differs"
    return f"the settings had the digest {settings[:12]}, of which no run of the sink tells more"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, one short sentence for each setting."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif name not in before and prefix:
            continue  # added by a later version
        elif old != new:
            found.append(f"{prefix}{name} was {_short(old)}, now {_short(new)}")
    return found


def _settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    max_bytes = run.get("stream", {}).get("fetch", {}).get("max_bytes")
    return {"task": run.get("task", {}), "max_bytes": max_bytes, "results": run.get("results", 1)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
