"""Decides for a run in which engine its network computes, by measuring them on a worker with some of its inputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.exceptions import GetTimeoutError, RayError
from torch import nn

from pipeline import package
from pipeline.distributed.session import capacity, cluster_size
from pipeline.distributed.stages import device_of_actor, model_of
from pipeline.engines import ENGINES, Engine, engines_of, with_engine
from pipeline.inference import prepared_batches
from pipeline.rows import FailedInput
from pipeline.runs.device import DeviceChoice
from pipeline.runs.earlier import newest_config
from pipeline.runs.plan import RunPlan
from pipeline.runs.settings import FIRST_ENGINE
from pipeline.source.entries import entries
from pipeline.source.passed import PassedOver
from pipeline.task import Task

_INPUTS = 8
_ROUNDS = 2
_GAIN = 1.1  # by which another engine must be faster, so that chance does not decide


@dataclass(frozen=True, kw_only=True)
class EngineTrial:
    """What was measured of an engine, on the same inputs as of the others."""

    engine: Engine
    seconds: float
    """Fastest of some rounds of prediction."""
    differs: float
    """Share of the results that are not those of float32, as `Task.disagreement` counts them."""


class _TrialFailed(Exception):
    """The engines could not be compared; the text says why."""


def decided(plan: RunPlan, say: Callable[[str], None]) -> RunPlan:
    """The same plan with an engine, if it leaves that open. Needs an open session.

    An earlier run of the sink with this model decides, so that a run that goes on makes the same rows, and a table does
    not mix engines. Else it is the fastest engine that keeps the results of some inputs, or float32 if that cannot be
    found out.
    """
    if plan.stream.engine != "auto":
        return plan
    earlier = newest_config(plan.sink, plan.package.digest)
    if earlier:
        engine = engine_of(earlier)
        say(f"engine {engine}, as in the last run of the sink with this model")
    elif engines_of(plan.package.model()) == (FIRST_ENGINE,):
        engine = FIRST_ENGINE
        say(f"engine {engine}: the model runs in no other")
    else:
        try:
            engine, reason = fastest_engine(_trials(plan), plan.stream.engine_tolerance)
        except _TrialFailed as failure:
            engine, reason = FIRST_ENGINE, str(failure)
        say(f"engine {engine}: {reason}")
    return dataclasses.replace(plan, stream=dataclasses.replace(plan.stream, engine=engine))


def engine_of(described: Mapping[str, Any]) -> Engine:
    """The engine of a run, from its ``config.json``."""
    return described.get("stream", {}).get("engine", FIRST_ENGINE)


def fastest_engine(trials: list[EngineTrial], tolerance: float) -> tuple[Engine, str]:
    """The engine to take, and why. The first trial is that of float32."""
    base, best, told = trials[0], trials[0], []
    for trial in trials[1:]:
        gain = base.seconds / max(trial.seconds, 1e-9)
        found = (
            f"{trial.engine} is {gain:.2f} times as fast as {base.engine} and changes {trial.differs:.3%} of the result"
        )
        if trial.differs > tolerance:
            found += f", more than the {tolerance:.3%} of stream.engine_tolerance"
        elif gain >= _GAIN and trial.seconds < best.seconds:
            best = trial
        told.append(found)
    return best.engine, "; ".join(told)


def compared(
    task: Task, models: dict[Engine, nn.Module], batches: list[pa.Table], device: torch.device
) -> list[EngineTrial]:
    """The trials of models that differ in their engines only, in turn, float32 first. ``batches`` are prepared rows."""

    def predicted(model: nn.Module) -> pa.Table:
        with torch.inference_mode():
            return pa.concat_tables([task.predict(model, batch, device) for batch in batches])

    results = {engine: predicted(model) for engine, model in models.items()}
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(_ROUNDS):
        for engine, model in models.items():
            started = time.perf_counter()
            predicted(model)
            seconds[engine] = min(seconds[engine], time.perf_counter() - started)
    return [
        EngineTrial(
            engine=engine,
            seconds=seconds[engine],
            differs=task.disagreement(results[FIRST_ENGINE], results[engine]) if engine != FIRST_ENGINE else 0.0,
        )
        for engine in sorted(models, key=ENGINES.index)
    ]


def _trials(plan: RunPlan) -> list[EngineTrial]:
    """The trials on a worker. `_TrialFailed` if no input can be read, or if the worker dies or takes too long, as with
    a file that crashes its reader."""
    listed = plan.selection.of(entries(plan.sources, plan.task.inputs, plan.stream.fetch, PassedOver()))
    inputs = next(listed, None)
    if inputs is None or not inputs.num_rows:
        raise _TrialFailed("there are no inputs to measure on")
    spread = np.unique(np.linspace(0, inputs.num_rows - 1, _INPUTS).astype(np.int64))
    stream = plan.stream
    device = DeviceChoice(stream.device, capacity(plan.cluster), stream.gpu_wait_s, lambda: cluster_size("GPU"))
    needs: dict[str, Any] = (
        {"num_gpus": stream.gpus_per_actor, "num_cpus": 0} if device.now == "gpu" else {"num_cpus": 0.9}
    )
    worker: Any = ray.remote(max_restarts=0, **needs)(_Measuring).remote()
    try:
        ray.get(worker.is_ready.remote(), timeout=plan.config.stall_timeout_s)
        asked = worker.measured.remote(plan.task, plan.package.uri, plan.package.digest, inputs.take(pa.array(spread)))
        found = ray.get(asked, timeout=stream.deadline_s)
    except GetTimeoutError as reason:
        raise _TrialFailed("no worker has measured the engines in time") from reason
    except RayError as reason:
        raise _TrialFailed("the worker that measured the engines failed") from reason
    finally:
        ray.kill(worker)
    if not found:
        raise _TrialFailed(f"none of the first {len(spread)} inputs could be read")
    return found


class _Measuring:
    """An actor that measures engines."""

    def is_ready(self) -> None:
        return

    def measured(self, task: Task, uri: str, digest: str, inputs: pa.Table) -> list[EngineTrial]:
        """The trials on this worker; empty if no input can be read."""
        device = device_of_actor()
        described = package.load(uri)
        if described.digest != digest:
            raise RuntimeError(f"package {uri} changed during the run")
        if device.type == "cpu":
            torch.set_num_threads(1)  # as in the actors of a run
        model = model_of(described)
        failed: list[FailedInput] = []
        batches = [prepared for _, _, _, prepared in prepared_batches(task, inputs, failed)]
        if not batches:
            return []
        models: dict[Engine, nn.Module] = {
            engine: with_engine(model_of(described).to(device), engine) for engine in engines_of(model)
        }
        return compared(task, models, batches, device)
