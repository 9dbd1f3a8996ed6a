"""The settings of a run: their digest, which every row carries, and why rows of other settings are processed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import config
from pipeline.runs.earlier import newest_first
from pipeline.task import Task

#: The engine of all runs before there was a choice.
FIRST_ENGINE = "float32"


def settings_digest(task: Task, max_bytes: int, engine: str = FIRST_ENGINE) -> str:
    """Digest of all settings that can change a row, without the model package.

    Digests of earlier versions stay valid: a setting that was added later is left out while it has its default
    (`config.added`), and so is the engine; the version number of the task's rules is only included from 2 on.
    """
    described: dict[str, Any] = {"task": config.identity(task), "max_bytes": max_bytes}
    described |= {"results": task.results} if task.results > 1 else {}
    return config.digest(described | ({} if engine == FIRST_ENGINE else {"engine": engine}))


def described_settings(task: Task, max_bytes: int, engine: str = FIRST_ENGINE) -> dict[str, Any]:
    """All settings behind the digest, to compare them with those of another run."""
    return {"task": config.to_dict(task), "max_bytes": max_bytes, "results": task.results, "engine": engine}


def why_redone(sink: str, model: str, settings: str, now: Mapping[str, Any], package: str) -> str:
    """Why rows of a sink with this model and these settings do not count as done for a run.

    ``now`` are the run's `described_settings`, and ``package`` is the digest of its model package. The settings behind
    ``settings`` are looked up in the earlier runs of the sink.
    """
    if model != package:
        return f"the model was {model[:12]}, now {package[:12]}"
    for run in newest_first(sink):
        if (run.config.get("digest"), run.config.get("settings")) == (model, settings):
            changes = differences(_settings_of(run.config), now)
            return "; ".join(changes) or "the settings have another digest, but nothing in them differs"
    return f"the settings had the digest {settings[:12]}; no earlier run of the sink has recorded them"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between two nested mappings, one short sentence for each setting."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif name not in before and prefix:
            continue  # the setting was added by a later version
        elif old != new:
            found.append(f"{prefix}{name} was {_short(old)}, now {_short(new)}")
    return found


def _settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    stream = run.get("stream", {})
    return {
        "task": run.get("task", {}),
        "max_bytes": stream.get("fetch", {}).get("max_bytes"),
        "results": run.get("results", 1),
        "engine": stream.get("engine", FIRST_ENGINE),
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
