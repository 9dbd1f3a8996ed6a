"""The page ``docs/reference.md``: every command with all of its options, made from the description of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jobs.help import GENERAL, meaning, metavar, typed
from jobs.options import Description, Option

FILE = Path(__file__).parent.parent / "docs" / "reference.md"

_Group = tuple[str, tuple[Option, ...]]

_HEAD = """\
# Reference

Every command with all of its options. The page is made from the settings themselves by `python -m jobs.describe`; do
not edit it. `parquetry NAME --help-all` prints the same.

An option may be given on the command line (`--stream.batch-rows 8`) or in a file for `--config`, in which the dots are
levels:

```yaml
stream:
  batch-rows: 8
```

`null` is a value, too, and means what the text says.
"""


def reference(commands: Mapping[str, Description]) -> str:
    """The whole page. Groups of options that several commands have alike stand once, after the commands."""
    shared = _shared(commands.values())
    links = ", ".join(f"[{name}](#{name})" for name in commands)
    lines = [_HEAD, f"The commands: {links}.", "", "## All commands", "", "| option | meaning |", "| --- | --- |"]
    lines += [f"| `{head}` | {text} |" for head, text in GENERAL]
    for name, described in commands.items():
        lines += ["", f"## {name}", "", _escaped(described.text)]
        own = [group for group in _groups(described.options) if group not in shared]
        for title, options in own:
            lines += ["", *([f"**`{title}`**", ""] if title else []), *_table(options)]
        others = [
            f"[{group[0]}](#{_anchor(_heading(group))})" for group in _groups(described.options) if group in shared
        ]
        if others:
            lines += ["", f"And the options {', '.join(others)}, which several commands have."]
    for group in shared:
        lines += ["", f"## {_heading(group)}", "", *_table(group[1])]
    return "\n".join(lines) + "\n"


def _groups(options: Sequence[Option]) -> Iterator[_Group]:
    """The options of a command group by group: those without a dot first, each group with its name.
    Required ones come before the others."""
    ordered = sorted(options, key=lambda option: (option.group != "", not option.required))
    for title in dict.fromkeys(option.group for option in ordered):
        yield title, tuple(option for option in ordered if option.group == title)


def _shared(described: Iterable[Description]) -> list[_Group]:
    """The groups that more than one command has, with the same texts and defaults."""
    found: list[_Group] = []
    every = [group for item in described for group in _groups(item.options) if group[0]]
    for group in every:
        if every.count(group) > 1 and group not in found:
            found.append(group)
    return found


def _heading(group: _Group) -> str:
    return f"Options {group[0]}"


def _table(options: Iterable[Option]) -> list[str]:
    return ["| option | default | meaning |", "| --- | --- | --- |", *map(_row, options)]


def _row(option: Option) -> str:
    head = f"--{option.name} {metavar(option)}".rstrip().replace("|", "\\|")
    default = "**required**" if option.required else f"`{typed(option.default)}`"
    return f"| `{head}` | {default} | {_escaped(meaning(option))} |"


def _escaped(text: str) -> str:
    """Text in which nothing is markup: names such as SINK/runs/RUN_ID and NAME* are shown as they are."""
    for character in "\\*_<|[`":
        text = text.replace(character, f"\\{character}")
    return text


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return "".join(letter for letter in heading.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")
