"""Globs over folders and buckets: ``*`` and ``?`` stay within a folder, ``**`` does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import RequestError

_MARKS = re.compile(r"[*?\[]")


def is_glob(uri: str) -> bool:
    """Whether a URI contains a special character of globs."""
    return _MARKS.search(uri) is not None


def matching_glob(pattern: str) -> Iterator[pa.Table]:
    """List the objects that match: pages of `storage.LISTING`. `RequestError` if there is none."""
    scheme, separator, path = pattern.partition("://")
    path = path if separator else pattern
    literal = path[: cast("re.Match[str]", _MARKS.search(path)).start()]
    folder, _, begins = literal.rpartition("/")
    root = f"{scheme}://{folder}" if separator else folder or "/"
    try:
        expression = re.compile(_glob_expression(path))
    except re.error as reason:
        raise RequestError(f"source {pattern!r}: not a glob ({reason})") from reason
    if not storage.is_folder(root):
        raise RequestError(f"source {pattern!r}: no such folder as {root!r}")
    found = False
    strip = len(scheme) + 3 if separator else 0
    for page in storage.walk(root, begins):
        marks = pc.call_function(
            "and",
            [
                pc.call_function("ends_with", [page["uri"]], pc.MatchSubstringOptions("/")),
                pc.call_function("equal", [page["size"], pa.scalar(0)]),
            ],
        )
        page = page.filter(pc.call_function("invert", [marks]))  # leave out markers of folders, which some tools write
        keep = [bool(expression.fullmatch(uri[strip:])) for uri in page["uri"].to_pylist()]
        if any(keep):
            found = True
            yield page.filter(pa.array(keep))
    if not found:
        raise RequestError(f"source {pattern!r}: nothing matches")


def _glob_expression(pattern: str) -> str:
    """The regular expression of a glob: ``**/`` any folders, ``**`` anything, ``*`` and ``?`` no slash, ``[...]``.

    fsspec's own translation is not used: its ``[!x]`` matches a slash, its ``*/`` does not match an empty name, which
    object stores allow, and its ``[z-a]`` matches nothing.
    """
    pieces, position = [], 0
    for match in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]", pattern):
        pieces.append(re.escape(pattern[position : match.start()]))
        token = match[0]
        fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        pieces.append(fixed.get(token) or _glob_set(token[1:-1]))
        position = match.end()
    return "(?s)" + "".join(pieces) + re.escape(pattern[position:])


def _glob_set(inside: str) -> str:
    """A set ``[...]`` of a glob as a regular expression. Like ``*`` and ``?``, it does not match a slash."""
    negated = inside.startswith("!")
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[negated:])
    return f"(?!/)[{'^' if negated else ''}{escaped}]"
