"""What ``--help`` and ``--help-all`` print, from the description of the commands in ``options.json``."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence

from jobs.commands import COMMANDS
from jobs.options import Description, Option, load

_WIDEST = 100
_INDENT = 26
_METAVARS = {
    "int": "N",
    "float": "X",
    "str": "TEXT",
    "mapping": "MAPPING",
    "list of int": "[N,...]",
    "list of float": "[X,...]",
    "list of 2 int": "[N,N]",
    "list of 2 float": "[X,X]",
}
#: What all commands have: how it is typed, and what it means.
GENERAL = (
    ("--config FILE", "YAML file with any of the settings; options after it override it."),
    ("--print-config", "Show all settings as they would be, with comments, as such a file."),
    ("--quiet", "Print only warnings and errors on standard error."),
    ("--log-format {text,json}", "Lines for people, or one JSON object for each event."),
    ("-h, --help", "Show the settings that people use first."),
    ("--help-all", "Show all settings."),
)


def overview(program: str) -> str:
    """The list of commands."""
    rows = [(name, f"{command.summary[0].upper()}{command.summary[1:]}.") for name, command in COMMANDS.items()]
    rows.append(("completion bash|zsh", "Print a script that completes commands and options."))
    lines = [
        f"usage: {program} COMMAND [options]",
        "",
        "Segment images and documents at cluster scale.",
        "",
        "commands:",
    ]
    lines += [line for head, text in rows for line in _row(head, text)]
    lines += ["", f"'{program} COMMAND --help' shows the options of a command; '{program} --version' the version."]
    return "\n".join(lines)


def asked_for(command: str, program: str, argv: Sequence[str]) -> str | None:
    """The help that the arguments ask for; None where they ask for none."""
    words = {argument.replace("_", "-") for argument in argv}
    if "--help-all" in words:
        return page(load()[command], program, ())
    if words & {"-h", "--help"}:
        return page(load()[command], program, COMMANDS[command].first)
    return None


def page(described: Description, program: str, first: Sequence[str]) -> str:
    """The options of a command that are required and those named in ``first``; all of them where it is empty."""
    required = [option for option in described.options if option.required]
    others = [option for option in described.options if not option.required and (not first or option.name in first)]
    heads = [f"--{option.name} {metavar(option)}" for option in required]
    usage = textwrap.wrap(" ".join(["usage:", program, *heads, "[options]"]), _width(), subsequent_indent=" " * 7)
    lines = [*usage, "", *textwrap.wrap(described.text, _width())]
    lines += _section("required", required)
    for group in dict.fromkeys(option.group for option in sorted(others, key=lambda option: option.group != "")):
        lines += _section(group or "options", [option for option in others if option.group == group])
    lines += ["", "all commands:", *(line for head, text in GENERAL for line in _row(head, text))]
    hidden = len(described.options) - len(required) - len(others)
    if hidden:
        lines += ["", f"{hidden} further settings: {program} --help-all"]
    return "\n".join(lines)


def metavar(option: Option) -> str:
    """What stands for an option's value; empty for a flag."""
    if option.is_path:
        return "URI"
    if option.kind == "bool":
        return "" if option.default is False else "{true,false}"
    if option.choices:
        return option.kind
    return _METAVARS.get(option.kind, "[NAME,...]" if option.kind.startswith("list of") else "VALUE")


def _section(title: str, options: Iterable[Option]) -> list[str]:
    lines = [line for option in options for line in _row(f"--{option.name} {metavar(option)}".rstrip(), _text(option))]
    return ["", f"{title}:", *lines] if lines else []


def meaning(option: Option) -> str:
    """What an option means, with its choices."""
    names = option.kind.removeprefix("list of ")
    of = f" Of {names.strip('{}').replace(',', ', ')}." if names.startswith("{") and names != option.kind else ""
    return (option.help + of).lstrip()


def typed(value: object) -> str:
    """A value as one types it."""
    if isinstance(value, list):
        return f"[{','.join(typed(item) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _text(option: Option) -> str:
    if option.required or option.default in (None, False, {}):
        return meaning(option)
    return f"{meaning(option)} (default: {typed(option.default)})".lstrip()


def _row(head: str, text: str) -> list[str]:
    """An option and its text beside it, or below it where it is long."""
    lines = textwrap.wrap(text, _width() - _INDENT)
    beside = [lines.pop(0)] if lines and len(head) <= _INDENT - 4 else []
    return [f"  {head:{_INDENT - 2}}{''.join(beside)}".rstrip(), *(" " * _INDENT + line for line in lines)]


def _width() -> int:
    return max(60, min(_WIDEST, shutil.get_terminal_size().columns))
