"""Inputs that could not be used, for people: the first ones on standard error, all of them in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jobs.console import say
from pipeline import storage
from pipeline.json_text import to_json
from pipeline.rows import FailedInput

_SHOWN = 10


def name_failures(failures: Sequence[tuple[str, FailedInput]], folder: str) -> None:
    """Name the failed inputs, each with the part of the data that it belongs to, here and in a file in the folder."""
    if not failures:
        return
    for _, item in failures[:_SHOWN]:
        say(f"  {item}")
    where = storage.join(folder, "failed_inputs.jsonl")
    lines = "".join(to_json({"part": part, **dataclasses.asdict(item)}) + "\n" for part, item in failures)
    storage.write(where, lines.encode("utf-8", "backslashreplace"))
    say(f"all {len(failures)} of them: {where}")
