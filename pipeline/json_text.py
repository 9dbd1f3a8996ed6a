"""JSON as this project writes it: text that every reader of JSON accepts, with null in place of NaN and infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(content: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """A value as JSON (RFC 8259). Numbers that are not finite have no form there and become null: undefined."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
