"""The options of a command: read from its settings class, or from ``options.json``, which is made from all of them.

The settings classes import torch and Ray; the file is there so that help and completion need not.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.commands import PATHS

FILE = Path(__file__).with_name("options.json")

_NULL = " | null"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting of a command."""

    name: str
    """As it is typed and shown, with dots and hyphens: ``stream.batch-rows``."""
    type: str
    """``int``, ``float``, ``str``, ``bool``, ``mapping``, ``{auto,cpu,gpu}``, ``list of TYPE``; and ``| null``."""
    required: bool = False
    default: Any = None
    help: str = ""

    @property
    def key(self) -> str:
        """As the settings class has it, with underscores: ``stream.batch_rows``."""
        return self.name.replace("-", "_")

    @property
    def group(self) -> str:
        """``stream`` for ``stream.batch-rows``; empty for an option without a dot."""
        return self.name.rpartition(".")[0]

    @property
    def kind(self) -> str:
        """The type without ``| null``."""
        return self.type.removesuffix(_NULL)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it can have, where they can be listed."""
        return tuple(self.kind[1:-1].split(",")) if self.kind.startswith("{") else ()

    @property
    def is_flag(self) -> bool:
        """Whether the option's name alone means true."""
        return self.kind == "bool"

    @property
    def is_repeatable(self) -> bool:
        """Whether the option may be given several times."""
        return self.kind == "list of str | str"

    @property
    def count(self) -> int | None:
        """How many values the option has, if it has a certain number of them, such as height and width; else None."""
        words = self.kind.split()
        return int(words[2]) if words[:2] == ["list", "of"] and words[2].isdigit() else None

    @property
    def is_path(self) -> bool:
        return self.name in PATHS and self.kind in ("str", "list of str | str")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known about a command without importing it."""

    text: str
    """What it does, in a sentence or two."""
    options: tuple[Option, ...]


def load() -> dict[str, Description]:
    """The commands as ``options.json`` describes them."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Description(text=item["text"], options=tuple(Option(**option) for option in item["options"]))
        for name, item in found.items()
    }


def options_of(settings: type) -> tuple[Option, ...]:
    """The options of a settings class, in the order of its fields; those of nested classes have dotted names."""
    return tuple(_walk(settings, "", {}))


def _walk(settings: type, prefix: str, defaults: dict[str, Any]) -> Iterator[Option]:
    """``defaults``: values that the class which holds these settings gives to some of them."""
    hints, texts = typing.get_type_hints(settings), _field_docs(settings)
    for field in dataclasses.fields(settings):
        hint, default = hints[field.name], defaults.get(field.name, _default(field))
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            inner = {item.name: getattr(default, item.name) for item in dataclasses.fields(hint)}
            yield from _walk(hint, f"{prefix}{field.name}.", inner)
        else:
            required = default is dataclasses.MISSING
            yield Option(
                name=(prefix + field.name).replace("_", "-"),
                type=_type_text(hint),
                required=required,
                default=None if required else _plain(default),
                help=texts.get(field.name, ""),
            )


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type_text(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_text(item) for item in arguments)
    if origin is typing.Literal:
        return "{" + ",".join(str(item) for item in arguments) + "}"
    if origin in (list, tuple):
        several = origin is list or arguments[-1] is Ellipsis
        return f"list of {'' if several else f'{len(arguments)} '}{_type_text(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "mapping"
    return hint.__name__


def _field_docs(settings: type) -> dict[str, str]:
    """The string below each field of a class and of its base classes, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(text.value.split())
    return found
