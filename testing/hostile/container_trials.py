"""Trials: a changed container beside a sound file, through listing and fetching, with what must hold of both."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ERROR_CODES, RequestError
from pipeline.images.letterbox import IMAGES
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.text.task import TextSegmentation
from testing.hostile.container_mutants import Mutant

#: Seconds in which a container must give something; a trial may take twice as long, since it is listed and fetched.
DEADLINE_S = 10.0
CONFIG = FetchConfig(threads=2, deadline_s=DEADLINE_S, max_bytes=64 << 20)
#: Every suffix that a mutant has is listed, whatever the task's own folders would take.
KINDS: dict[str, InputKind] = {
    "document": replace(TextSegmentation.inputs, suffixes=(*TextSegmentation.inputs.suffixes, ".tgz", ".jpg")),
    "image": replace(IMAGES, suffixes=(*IMAGES.suffixes, ".tgz")),
}
#: Codes in containers that nobody changed: some have empty values, files with holes, or no column of the kind.
_CODES_OF_SOUND = ("done", "empty", "bad_archive")
SOUND = b"This file is sound."
#: Events of the interpreter that no file may cause: whatever a stranger's bytes would run, or reach out with.
_FORBIDDEN = (
    *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"),
    *("socket.connect", "ctypes.dlopen", "compile", "import"),
)


@dataclass(kw_only=True)
class Trial:
    """What became of one container. ``problems``: the rules that were broken; none may be."""

    codes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Executions:
    """Counts what the interpreter is made to run, from the first call of `begin` on. There is one for each process."""

    _found: list[str] | None = None
    _is_hooked = False

    @classmethod
    def begin(cls) -> None:
        cls._found = []
        if not cls._is_hooked:
            cls._is_hooked = True
            sys.addaudithook(cls._hook)

    @classmethod
    def end(cls) -> list[str]:
        found, cls._found = cls._found or [], None
        return found

    @classmethod
    def _hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls._found is None or event not in _FORBIDDEN:
            return
        if event == "import" and str(arguments[0]).startswith("encodings."):
            return  # a byte order mark names an encoding, and Python loads it when it is first used
        cls._found.append(f"{event} {arguments[0]!r:.80}")


def trial(mutant: Mutant, folder: Path) -> Trial:
    """List and fetch a folder with a mutant and a sound file, and the mutant alone, which may be a manifest, too."""
    kind = KINDS[mutant.kind]
    sound = folder / ("a sound.txt" if mutant.kind == "document" else "a sound.jpg")
    path = folder / f"x{mutant.suffix}"
    sound.write_bytes(SOUND)
    path.write_bytes(mutant.data)
    before = sorted(os.listdir(folder))
    result = Trial()
    began = time.perf_counter()
    Executions.begin()
    try:
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            found = _read([str(folder)], kind, result)
            with contextlib.suppress(RequestError):
                _read([str(path)], kind, Trial())
        result.problems += [f"a warning: {item.message}" for item in leaked]
    except Exception as reason:
        result.problems.append(f"{type(reason).__name__} escaped: {reason}")
        found = {}
    result.seconds = time.perf_counter() - began
    result.problems += [f"ran {event}" for event in Executions.end()]
    if found.get((str(sound), None)) != SOUND:
        result.problems.append("the sound file has no row")
    if mutant.changes == ("none",) and any(code not in _CODES_OF_SOUND for code in result.codes):
        result.problems.append(f"an unchanged container fails: {result.codes}")
    if result.seconds > 2 * DEADLINE_S:
        result.problems.append(f"took {result.seconds:.1f} s")
    if sorted(os.listdir(folder)) != before:
        result.problems.append("files were left behind")
    path.unlink()
    return result


def _read(sources: list[str], kind: InputKind, result: Trial) -> dict[tuple[str, str | None], bytes | str]:
    """The bytes or the error code of each input."""
    found: dict[tuple[str, str | None], bytes | str] = {}
    for rows in entries(sources, kind, CONFIG):
        data, errors = fetch(rows, kind, CONFIG)
        listed = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), data, errors.to_pylist(), strict=True)
        for uri, member, item, error in listed:
            code = "done" if error is None else error["code"]
            result.codes[code] += 1
            if (item is None) == (error is None):
                result.problems.append(f"{member!r} has bytes and an error, or neither")
            if code != "done" and (code not in ERROR_CODES or code == "internal"):
                result.problems.append(f"{member!r} has the code {code}")
            if (uri, member) in found:
                result.problems.append(f"{member!r} is listed twice")
            found[uri, member] = code if item is None else item
    return found
