"""From the command line to settings, and from what happens to one line of JSON and an exit code.

The only place that imports jsonargparse. ``--config FILE.yaml`` plus dotted overrides; ``--print-config`` shows the
whole resolved configuration with its comments. Names may be spelled with hyphens or underscores, in files too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence, Set
from types import FrameType
from typing import Any, NoReturn, TypeVar

import jsonargparse
import yaml

from jobs import arguments
from jobs.commands import PATHS, command_of, program
from jobs.console import configure, show
from jobs.help import asked_for
from jobs.options import Option, options_of
from jobs.summary import finish
from pipeline import storage
from pipeline.errors import DONE, WRONG_REQUEST, JobFailed, RequestError, Stopped
from pipeline.redaction import redact
from pipeline.runs.life import one_line, outcome_of
from pipeline.source.texts import decoded, encoding_of

S = TypeVar("S")

_LOAD = jsonargparse.get_loader("yaml")


def main(settings: type[S], work: Callable[[S], dict[str, Any]], argv: Sequence[str] | None = None) -> NoReturn:
    """Parse, work, print the summary as the last line of standard output, and exit with its code.

    ``work`` returns the summary; its ``exit_code``, where it has one, is the process's. Help is printed instead where
    the arguments ask for it. Secrets of this process are replaced in all that it prints.
    """
    given = sys.argv[1:] if argv is None else argv
    help_text = asked_for(command_of(settings), " ".join(program()), given)
    if help_text is not None:
        print(help_text)
        raise SystemExit(DONE)
    for stream in (sys.stdout, sys.stderr):
        redact(stream)
    _stop_on_signals()
    try:
        parsed = parse(settings, configure(given))
        show()
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
    finish(summary, code)


def parse(settings: type[S], argv: Sequence[str]) -> S:
    """Settings from arguments. `RequestError` with one line that names the setting, the rule and the value."""
    options = options_of(settings)
    _configure_parsing(options)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(settings)
    arguments.check(options, argv)
    for file in _config_files(argv):
        _check_text(file)
    try:
        # jsonargparse prints some errors itself; an error here is one line, printed once.
        with contextlib.redirect_stderr(io.StringIO()):
            namespace = parser.parse_args(arguments.normalised(options, argv))
            values = parser.instantiate(namespace)
    except RequestError:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError, OSError) as reason:
        raise RequestError(_cause(reason, options)) from reason
    fields = {field.name: _expanded(field.name, getattr(values, field.name)) for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return settings(**fields)


def _config_files(argv: Sequence[str]) -> list[str]:
    """The files that ``--config`` names."""
    found = [given.partition("=")[2] for given in argv if given.startswith("--config=")]
    return found + [value for name, value in itertools.pairwise(argv) if name == "--config"]


def _check_text(file: str) -> None:
    """`RequestError` that names the file, the line and the byte if a file of settings is no UTF-8."""
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except (OSError, ValueError):
        return  # the parser says why
    if (encoding := encoding_of(data[:4])) != "utf-8":
        raise RequestError(f"--config: {file} must be UTF-8, it is {encoding.upper()}")
    decoded(data, f"--config: {file}")


def _expanded(name: str, value: Any) -> Any:
    """A setting's value; in a path, a leading ``~`` is replaced by the home directory."""
    if name in PATHS and isinstance(value, str):
        return os.path.expanduser(value)
    return [_expanded(name, item) for item in value] if name in PATHS and isinstance(value, list) else value


def _configure_parsing(options: Sequence[Option]) -> None:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    names = {name for option in options for name in option.key.split(".")}
    jsonargparse.set_loader("yaml", lambda text: _underscored(_LOAD(text), names), exceptions=(yaml.YAMLError,))


def _underscored(value: Any, names: Set[str]) -> Any:
    """A value from a file, with underscores instead of hyphens in the names of settings. Other keys stay."""
    if not isinstance(value, dict):
        return value
    spelled = {key: key.replace("-", "_") if isinstance(key, str) else key for key in value}
    return {spelled[key] if spelled[key] in names else key: _underscored(item, names) for key, item in value.items()}


def _cause(reason: BaseException, options: Sequence[Option]) -> str:
    """The line that says most: our own error where one is behind it, else what the parser's error means."""
    behind: BaseException | None = reason
    while behind is not None:
        if isinstance(behind, RequestError):
            return one_line(behind)
        behind = behind.__cause__ or behind.__context__
    text = one_line(reason)
    for pattern, meaning in _MEANINGS:
        if found := re.match(pattern, text):
            return meaning(found, options)
    return text


def _wrong_value(found: re.Match[str], options: Sequence[Option]) -> str:
    known = {option.key: option for option in options}
    if found["key"] not in known:
        return found.string
    option = known[found["key"]]
    rule = f"one of {', '.join(option.choices)}" if option.choices else f"of type {option.type}"
    return f"--{option.name} must be {rule}, got {found['value']!r}"


def _broken_file(found: re.Match[str], _: Sequence[Option]) -> str:
    place = re.search(r"line (\d+)", found.string)
    return "--config: the file is not valid YAML" + (f", see its line {place[1]}" if place else "")


#: What errors of jsonargparse say, and how a user is told. Others are passed on as they are.
_MEANINGS: tuple[tuple[str, Callable[[re.Match[str], Sequence[Option]], str]], ...] = (
    (r'Parser key "(?P<key>[^"]+)": .*(?:Got value|Given value): (?P<value>.*)', _wrong_value),
    (r"the following arguments are required: (.*)", lambda found, _: arguments.missing_text(found[1].split(", "))),
    (r"unrecognized arguments: (.*)", lambda found, _: f"unexpected value {found[1]!r}: values follow an option"),
    (r"argument --([^:/]+)[^:]*: expected one", lambda found, _: f"{arguments.spelled(found[1])} needs a value"),
    (r"Option '(.*)' is not accepted", lambda found, options: arguments.unrecognized(found[1], options)),
    (
        r"Group '(.*)' does not accept option '(.*)'",
        lambda found, options: arguments.unrecognized(f"{found[1]}.{found[2]}", options),
    ),
    (r'Parser key "config": [^:]+: (.*)', lambda found, _: f"--config: cannot read a file {found[1]}"),
    (
        r"""Parser key "([^"]+)": Unable to load config '([^']*)'""",
        lambda found, _: f"{arguments.spelled(found[1])}: cannot read a file {found[2]!r}",
    ),
    (r"Unexpected config:", lambda *_: "--config: the file must hold settings as YAML, name: value"),
    (r"Problems parsing config: ", _broken_file),
)


def _stop_on_signals() -> None:
    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise Stopped(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
