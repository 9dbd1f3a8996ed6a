"""Secrets that this process knows are replaced by ``***`` in whatever it prints and in the summaries that it writes.

A secret is the value of an environment variable whose name says so (``AWS_SECRET_ACCESS_KEY``, ``RAY_AUTH_TOKEN``).
Errors of libraries may show the environment: Ray prints all variables of a runtime environment that it refuses.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any, TextIO

HIDDEN = "***"

_SECRET = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN|CONNECTION_STRING|(^|_)SAS(_|$)|(ACCESS|ACCOUNT|API|PRIVATE|AUTH|STORAGE)_?KEY|(^|_)KEY$",
    re.IGNORECASE,
)
_PLACE = re.compile(r"_(FILE|PATH|DIR|URI|URL|ENDPOINT)$", re.IGNORECASE)  # variables that say where a secret lies
_SHORTEST = 8  # characters; shorter values are common words, and would be replaced everywhere


def redacted(text: str) -> str:
    """The text without the secrets of this process's environment, also where they are quoted or percent-encoded."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def redact(stream: TextIO) -> None:
    """Redact all that is written to a stream of text from now on, also by handlers of logs that hold the stream."""
    write = stream.write

    def write_redacted(text: str) -> int:
        write(redacted(text))
        return len(text)

    stream.write = write_redacted


def redacted_values(value: Any) -> Any:
    """A value of JSON with all its strings redacted. Names of entries stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: redacted_values(item) for name, item in value.items()}
    return [redacted_values(item) for item in value] if isinstance(value, list | tuple) else value


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) < _SHORTEST or not _SECRET.search(name) or _PLACE.search(name):
            continue
        if not (os.path.isabs(value) and os.path.exists(value)):
            yield from {value, repr(value)[1:-1], json.dumps(value)[1:-1], urllib.parse.quote(value, safe="")}
