"""The command ``parquetry``, also ``python -m jobs``: finds a command by its name and runs it."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from jobs import arguments, completion
from jobs.commands import COMMANDS, module_of, program
from jobs.console import configure
from jobs.help import asked_for, overview
from jobs.options import load
from jobs.summary import finish
from pipeline.errors import DONE, WRONG_REQUEST, RequestError


def main() -> NoReturn:
    """Run the command that the arguments of this process name."""
    typed, *rest = sys.argv[1:] or ["--help"]
    if typed in ("-h", "--help", "--help-all"):
        _print(overview(" ".join(program())))
    if typed == "--version":
        _print(f"parquetry {_version()}")
    name = typed.replace("_", "-")
    if name == "completion":
        if len(rest) != 1 or rest[0] not in completion.SCRIPTS:
            _refuse(f"completion must be for {' or '.join(completion.SCRIPTS)}, got {' '.join(rest) or 'nothing'}")
        _print(completion.SCRIPTS[rest[0]](load()))
    if name not in COMMANDS:
        found = arguments.nearest(name, [*COMMANDS, "completion"])
        _refuse(f"unknown command {typed}" + (f"; did you mean {found[0]}?" if found else "; see --help"))
    _run(name, rest)


def _run(name: str, argv: list[str]) -> NoReturn:
    """Help and wrong options are answered before the command is imported, which takes seconds."""
    help_text = asked_for(name, " ".join([*program(), name]), argv)
    if help_text is not None:
        _print(help_text)
    try:
        arguments.check(load()[name].options, configure(argv))
    except RequestError as reason:
        finish({"status": "wrong request", "error": str(reason)}, WRONG_REQUEST)
    from jobs import cli  # imports jsonargparse and pyarrow

    job = importlib.import_module(module_of(name))
    cli.main(getattr(job, COMMANDS[name].settings), job.work, argv)


def _print(text: str) -> NoReturn:
    print(text)
    raise SystemExit(DONE)


def _refuse(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(WRONG_REQUEST)


def _version() -> str:
    try:
        return version("parquetry")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
