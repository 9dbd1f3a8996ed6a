"""From the command line to settings, and from what happens to one line of JSON and an exit code.

The only place that imports jsonargparse. ``--config FILE.yaml`` plus dotted overrides; ``--print_config`` shows the
whole resolved configuration with its comments. Hyphens in option names are underscores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

import jsonargparse

from pipeline import storage
from pipeline.errors import DONE, WRONG_REQUEST, JobFailed, RequestError, Stopped
from pipeline.runs.life import one_line, outcome_of

S = TypeVar("S")


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main(settings: type[S], work: Callable[[S], dict[str, Any]], argv: Sequence[str] | None = None) -> NoReturn:
    """Parse, work, print the summary as the last line of standard output, and exit with its code.

    ``work`` returns the summary; its ``exit_code``, where it has one, is the process's.
    """
    _stop_on_signals()
    try:
        parsed = parse(settings, sys.argv[1:] if argv is None else argv)
        storage.configure(getattr(parsed, "storage", storage.StorageConfig()))
        summary = work(parsed)
        code = int(summary.get("exit_code", DONE))
    except RequestError as reason:
        summary, code = {"status": "wrong request", "error": one_line(reason)}, WRONG_REQUEST
    except (Stopped, Exception) as reason:
        if not isinstance(reason, Stopped | JobFailed):
            traceback.print_exc()
        outcome = outcome_of(reason)
        summary, code = outcome.summary(), outcome.exit_code
    if code != DONE and summary.get("error"):
        print(f"error: {summary['error']}", file=sys.stderr, flush=True)
    print(json.dumps({**summary, "exit_code": code}, ensure_ascii=True), flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the cluster's client must not keep a finished job alive


def parse(settings: type[S], argv: Sequence[str]) -> S:
    """Settings from arguments. `RequestError` with one line that names the setting, the rule and the value."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {settings.__module__ if settings.__module__ != '__main__' else sys.argv[0]}",
        description=settings.__doc__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(settings)
    try:
        # jsonargparse prints some errors itself; an error here is one line, printed once.
        with contextlib.redirect_stderr(io.StringIO()):
            namespace = parser.parse_args(_normalised(settings, argv))
            values = parser.instantiate(namespace)
    except RequestError:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError) as reason:
        raise RequestError(_cause(reason)) from reason
    fields = {field.name: getattr(values, field.name) for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return settings(**fields)


def _normalised(settings: type, argv: Sequence[str]) -> list[str]:
    """Hyphens to underscores in option names; ``--flag`` alone to ``--flag true``; ``--list a --list b`` to a list."""
    result: list[str] = []
    flags = set(_options(settings, "", lambda kind: kind is bool))
    lists = dict.fromkeys(_options(settings, "", lambda kind: list[str] in typing.get_args(kind)))
    given: dict[str, list[str]] = {name: [] for name in lists}
    taken = -1
    for index, argument in enumerate(argv):
        if index == taken:
            continue
        if not argument.startswith("--"):
            result.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if name == "print_config" and not equals:
            equals, value = "=", "comments"
        if name in given and (equals or index + 1 < len(argv)):
            given[name].append(value if equals else argv[index + 1])
            taken = -1 if equals else index + 1
            continue
        result.append(f"--{name}{equals}{value}")
        following = argv[index + 1] if index + 1 < len(argv) else "--"
        if name in flags and not equals and following.startswith("--"):
            result.append("true")
    several = {name: values[0] if len(values) == 1 else json.dumps(values) for name, values in given.items() if values}
    return [*result, *(f"--{name}={value}" for name, value in several.items())]


def _options(settings: type, prefix: str, wanted: Callable[[Any], bool]) -> list[str]:
    """The dotted names of the settings of a type."""
    found = []
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if wanted(hints[field.name]):
            found.append(prefix + field.name)
        elif dataclasses.is_dataclass(hints[field.name]):
            found += _options(hints[field.name], f"{prefix}{field.name}.", wanted)
    return found


def _cause(reason: BaseException) -> str:
    """The line that says most: our own error where one is behind it, else the parser's."""
    behind: BaseException | None = reason
    while behind is not None:
        if isinstance(behind, RequestError):
            return one_line(behind)
        behind = behind.__cause__ or behind.__context__
    return one_line(reason)


def _stop_on_signals() -> None:
    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise Stopped(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
