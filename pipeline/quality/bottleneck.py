"""What bound a run, and the one setting to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: A run that took less says nothing about a longer one: most of it is starting.
SHORT_S = 30.0
_BUSY = 0.7  # of an actor's time, from which on it counts as busy all the time
_IDLE = 0.35


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run had, and what its workers did."""

    seconds: float
    """From the beginning of the run to its end."""
    first_part_s: float | None
    """Seconds from the beginning to the first part; None if there was none."""
    stage_seconds: Mapping[str, float]
    """Seconds of each stage, summed over all workers."""
    actors: int
    """The largest number of actors with a model; 0: not known."""
    cpus: float
    gpus: float
    on_gpu: bool
    blocks_queued: float | None
    """Mean number of blocks that waited for an actor; None: not known."""
    fetch_threads: int
    block_rows: int


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What bound the run."""

    bound: str
    """A stage, ``start``, ``blocks``, or ``nothing``."""
    text: str
    """One or two sentences for people."""
    option: str | None = None
    """The option to change, with its value; None: there is none."""


def advice(usage: Usage) -> Advice:
    """What bound the run, from the seconds of its stages, and the one setting to change.

    The stage that took most of the workers' time bound the run. What helps depends on where it runs: downloads wait for
    the network, so more of them at once help; on CPUs each actor fills one CPU, so more actors help as long as there
    are CPUs; a GPU that waits needs more CPUs that prepare its images.
    """
    total = sum(usage.stage_seconds.values())
    if usage.first_part_s is None or total <= 0:
        return Advice(bound="nothing", text="Nothing to change: no input was processed.")
    if usage.seconds < SHORT_S:
        text = f"Nothing to change: the run took {usage.seconds:.0f} s, which is too short to say what bound it."
        return Advice(bound="nothing", text=text)
    streaming = max(1e-9, usage.seconds - usage.first_part_s)
    if usage.first_part_s > usage.seconds / 2:
        return Advice(
            bound="start",
            text=f"Listing and starting bound this run: its first part came after {usage.first_part_s:.0f} of "
            f"{usage.seconds:.0f} s. No setting changes that; a run on more inputs at once pays it once.",
        )
    stage = max(usage.stage_seconds, key=lambda name: usage.stage_seconds[name])
    share = usage.stage_seconds[stage] / total
    # On CPUs an actor works on two blocks at a time; computing fills its CPU.
    working = usage.stage_seconds.get("predict", 0.0) if usage.on_gpu else total
    load = working / (usage.actors * streaming) if usage.actors else 1.0
    if not usage.on_gpu and load < _IDLE and not usage.blocks_queued:
        return Advice(
            bound="blocks",
            text=f"The actors waited for blocks: they worked {load:.0%} of the time, and none was queued. Smaller "
            "blocks give each of them some.",
            option=f"--stream.block-rows {max(1, usage.block_rows // 4)}",
        )
    if stage == "fetch":
        return _about(stage, share, "More downloads at once hide the network's delay.", _threads(usage))
    if stage == "write":
        what = "Larger blocks give fewer, larger files; each costs the store a request."
        return _about(stage, share, what, f"--stream.block-rows {4 * usage.block_rows}")
    return _of_gpus(usage, stage, share, load) if usage.on_gpu else _of_cpus(usage, stage, share)


def _of_cpus(usage: Usage, stage: str, share: float) -> Advice:
    if stage == "predict" and usage.gpus:
        return _about(stage, share, "The cluster has GPUs that this run did not use.", "--stream.device gpu")
    room = int(usage.cpus / 0.9) if usage.cpus >= 1 else 0
    if 0 < usage.actors < room:
        what = f"{usage.actors} actors left some of the {usage.cpus:g} CPUs idle."
        return _about(stage, share, what, f"--stream.actors {room}")
    more = "more CPUs, or a GPU" if stage == "predict" else "more CPUs"
    what = f"Its actors filled all {usage.cpus:g} CPUs, so only {more} make it faster."
    return _about(stage, share, what, f"--cluster.cpus {2 * max(1, int(usage.cpus))}, or a larger cluster")


def _of_gpus(usage: Usage, stage: str, share: float, load: float) -> Advice:
    if load >= _BUSY:
        what = f"The GPUs computed {load:.0%} of the time, so only more of them make it faster."
        return _about("predict", share if stage == "predict" else None, what, f"--stream.actors {2 * usage.actors}")
    if usage.blocks_queued:
        what = (
            f"The GPUs computed {load:.0%} of the time while blocks waited: two actors on a GPU fill each other's gaps."
        )
        return _about(stage, share, what, "--stream.gpus-per-actor 0.5")
    what = f"The GPUs computed {load:.0%} of the time and waited for images: more CPUs prepare them."
    return _about(stage, share, what, f"--cluster.cpus {2 * max(1, int(usage.cpus))}, or nodes with more CPUs")


def _threads(usage: Usage) -> str:
    return f"--stream.fetch.threads {2 * usage.fetch_threads}"


_DOING = {
    "fetch": "Downloading",
    "prepare": "Preparing inputs",
    "predict": "The model",
    "encode": "Encoding results",
    "write": "Writing files",
}


def _about(stage: str, share: float | None, what: str, option: str) -> Advice:
    took = "" if share is None else f": {share:.0%} of the workers' time"
    return Advice(bound=stage, text=f"{_DOING.get(stage, stage)} bound this run{took}. {what}", option=option)
