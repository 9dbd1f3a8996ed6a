"""Pilots: a new model works on a part of the inputs, in a table of its own, before it may replace rows.

A pilot has a sink ``SINK/pilots/NAME``, with table and ledger, so nothing of it is current in ``SINK/table`` until it
is accepted. A model that a gate has refused is remembered in ``SINK/refused``, whatever happens to the table. Once its
pilot is accepted, it is the sink's own model, and nobody asks; after a ``restore`` it is refused again.
"""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.runs.life import read_json, store_json

COMPARISON = "comparison.json"


def pilot_sink(sink: str, name: str) -> str:
    """The sink of a pilot."""
    return storage.join(sink, "pilots", name)


def read_pilot(sink: str, name: str) -> dict[str, Any]:
    """What is known of a pilot that has been compared. `RequestError` if there is none of this name."""
    found = read_json(storage.join(pilot_sink(sink, name), COMPARISON))
    if found is None:
        known = storage.names(storage.join(sink, "pilots"))
        there = f"; there are {', '.join(known[-5:])}" if known else "; there is none"
        raise RequestError(f"pilot {name!r}: sink {sink!r} has no compared pilot of this name{there}")
    return found


def refusal(sink: str, model: str, settings: str) -> dict[str, Any] | None:
    """Why a model with these settings was refused, if it was."""
    return read_json(_refused(sink, model, settings))


def refuse(sink: str, model: str, settings: str, *, pilot: str, reasons: list[str]) -> None:
    """Remember that a model with these settings was refused."""
    store_json(_refused(sink, model, settings), {"pilot": pilot, "reasons": reasons})


def _refused(sink: str, model: str, settings: str) -> str:
    return storage.join(sink, "refused", f"{model}-{settings}.json")
