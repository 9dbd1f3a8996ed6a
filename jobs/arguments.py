"""The words of a command line: both spellings of options, bare flags, repeated options; what is unknown or missing."""

from __future__ import annotations

import difflib
import itertools
import json
import os
from collections.abc import Iterable, Sequence

from jobs.options import Option
from pipeline.errors import RequestError

#: Options of every command, besides its settings and its help.
_GENERAL = ("config", "print-config", "quiet", "log-format")


def normalised(options: Sequence[Option], argv: Sequence[str]) -> list[str]:
    """The arguments with underscores in option names, and with one value for every option.

    ``--flag`` becomes ``--flag true``; ``--source a --source b`` becomes a list, and so does ``--input-size 256 320``.
    `RequestError` for an unknown option, with the nearest that there is.
    """
    known = {option.key: option for option in options}
    files = {"config"} | {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    given: dict[str, list[str]] = {key: [] for key, option in known.items() if option.is_repeatable}
    result: list[str] = []
    taken = -1
    for index, argument in enumerate(argv):
        if index <= taken:
            continue
        typed, equals, value = argument[2:].partition("=")
        if not argument.startswith("--") or " " in typed:  # a value
            result.append(argument)
            continue
        name = typed.replace("-", "_")
        if name and not _is_known(name, known, files):
            raise RequestError(f"unrecognized option --{typed}{_proposal(name, options)}")
        if name == "print_config" and not equals:
            equals, value = "=", "comments"
        if name in files:
            value = os.path.expanduser(value)
        if name in given and (equals or index + 1 < len(argv)):
            given[name].append(value if equals else argv[index + 1])
            taken = index if equals else index + 1
            continue
        several = () if equals or name not in known else _several(known[name], argv[index + 1 :])
        if several:
            result.append(f"--{name}=[{','.join(several)}]")
            taken = index + len(several)
            continue
        result.append(f"--{name}{equals}{value}")
        following = argv[index + 1] if index + 1 < len(argv) else "--"
        if name in known and known[name].is_flag and not equals and following.startswith("--"):
            result.append("true")
    lists = {name: values[0] if len(values) == 1 else json.dumps(values) for name, values in given.items() if values}
    return [*result, *(f"--{name}={value}" for name, value in lists.items())]


def _several(option: Option, following: Sequence[str]) -> list[str]:
    """The numbers after an option that has a certain number of values; none if they are given as one value."""
    values = list(itertools.takewhile(lambda value: not value.startswith("--"), following))
    if option.count is None or len(values) < 2:
        return []
    if len(values) != option.count:
        raise RequestError(f"{spelled(option.key)} must have {option.count} values, got {' '.join(values)}")
    return values


def check(options: Sequence[Option], argv: Sequence[str]) -> None:
    """`RequestError` where an option is unknown, or one that is required is missing and no file may hold it."""
    names = {argument[2:].partition("=")[0] for argument in normalised(options, argv) if argument.startswith("--")}
    if names & {"config", "print_config"}:
        return
    missing = [option.key for option in options if option.required and option.key not in names]
    if missing:
        raise RequestError(missing_text(missing))


def missing_text(keys: Iterable[str]) -> str:
    return f"required options are missing: {', '.join(spelled(key) for key in keys)}"


def spelled(key: str) -> str:
    """A setting's name as an option."""
    return "--" + key.replace("_", "-")


def nearest(typed: str, names: Iterable[str]) -> list[str]:
    """The name that is most like what was typed, if one is like it."""
    return difflib.get_close_matches(typed, list(names), n=1)


def unrecognized(key: str, options: Sequence[Option]) -> str:
    """The error text for a setting that there is not, with the nearest that there is."""
    return f"unrecognized option {spelled(key)}{_proposal(key, options)}"


def _is_known(name: str, known: dict[str, Option], files: set[str]) -> bool:
    """``--stream FILE`` gives a group from a file; ``--source+ a`` adds to a list; ``--model.NAME`` sets a key."""
    if name in known or name in files or name == "print_config" or name.removesuffix("+") in known:
        return True
    return any("mapping" in option.type and name.startswith(f"{key}.") for key, option in known.items())


def _proposal(key: str, options: Sequence[Option]) -> str:
    name = key.replace("_", "-")
    names = [*(option.name for option in options), *_GENERAL, "help", "help-all"]
    last = {item: item.rpartition(".")[2] for item in names}
    end = name.rpartition(".")[2]
    found = [item for item in names if last[item] == end] or nearest(name, names)
    if not found:
        found = [item for item in names if last[item] in nearest(end, last.values())]
    return f"; did you mean {' or '.join(f'--{item}' for item in found[:3])}?" if found else ""
