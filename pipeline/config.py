"""Settings: frozen, keyword-only dataclasses, which check their values and convert to and from plain dicts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pipeline.errors import RequestError

T = TypeVar("T")

_ADDED = "added"


def check(config: object, name: str, ok: bool, rule: str) -> None:
    """Raise `RequestError` with the class, the setting, the rule and the value unless ``ok``. For ``__post_init__``."""
    if not ok:
        raise RequestError(f"{type(config).__name__}.{name} must {rule}, got {getattr(config, name)!r}")


def number_range(value: str | int) -> tuple[int, int] | None:
    """The least and the largest number of a setting ``N`` or ``MIN:MAX``; None unless 1 <= MIN <= MAX."""
    found = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", str(value))
    if found is None:
        return None
    low, high = int(found[1]), int(found[2] or found[1])
    return (low, high) if 1 <= low <= high else None


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as values for JSON: nested dicts, lists, numbers, strings, None."""
    return {field.name: _plain(getattr(config, field.name), to_dict) for field in dataclasses.fields(config)}


def added(default: Any) -> Any:
    """Declare the default of a setting that was added after the first version of its class.

    While the setting has its default, `identity` leaves it out. So digests in existing tables, packages and trainings
    stay valid.
    """
    return dataclasses.field(default=default, metadata={_ADDED: True})


def identity(config: Any) -> dict[str, Any]:
    """`to_dict` for digests: it leaves out settings that were `added` and have their defaults."""
    return {
        field.name: _plain(getattr(config, field.name), identity)
        for field in dataclasses.fields(config)
        if not (field.metadata.get(_ADDED) and getattr(config, field.name) == field.default)
    }


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`. `RequestError` if a key is unknown or missing, or a value has the wrong type."""
    if not isinstance(data, Mapping):
        raise RequestError(f"{cls.__name__} must be a mapping, got {data!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise RequestError(f"{cls.__name__} has no setting {unknown[0]!r}; it has {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _typed(hints[name], data[name], f"{cls.__name__}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RequestError(f"{cls.__name__}.{name} is missing")
    return cls(**values)


def digest(data: Any, length: int = 32) -> str:
    """SHA-256 of canonical JSON (sorted keys, no spaces), the first ``length`` hex digits."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _plain(value: Any, nested: Callable[[Any], dict[str, Any]]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return nested(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, nested) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, nested) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), f"no plain form of {value!r}"
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        for option in options:
            try:
                return _typed(option, value, where)
            except RequestError:
                if option is options[-1]:
                    raise
    if origin is typing.Literal:
        if value not in args:
            raise RequestError(f"{where} must be one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), typing.cast("Mapping[str, Any]", value))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RequestError(f"{where} must be a list, got {value!r}")
        item_hints = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(item_hints) != len(value):
            raise RequestError(f"{where} must have {len(item_hints)} values, got {value!r}")
        return tuple(_typed(item, entry, where) for item, entry in zip(item_hints, value, strict=True))
    if origin is list:
        if not isinstance(value, list):
            raise RequestError(f"{where} must be a list, got {value!r}")
        return [_typed(args[0], entry, where) for entry in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RequestError(f"{where} must be a mapping, got {value!r}")
        return {key: _typed(args[1], entry, where) for key, entry in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RequestError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
