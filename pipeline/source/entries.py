"""Listing the inputs of a run: folders, globs, files, manifests and containers become entries.

An *entry* is one input, named by ``(uri, member)``, with the tag, size and time of the listing. ``member`` is null if
the input is a whole object. Otherwise it is the path of a file in a tar archive, or the number (from 1) of a line in a
JSONL file or of a row in a Parquet file. Entries are rows of Arrow tables with the columns of `ENTRIES`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.rows import OBJECT, InputKind
from pipeline.source.compression import COMPRESSIONS, without_compression
from pipeline.source.containers import CHUNK_ROWS, ENTRIES, kind_of, members
from pipeline.source.fetch import FetchConfig
from pipeline.source.globs import is_glob, matching_glob
from pipeline.source.manifests import listing_page, manifest_pages
from pipeline.source.passed import PassedOver
from pipeline.storage import LISTING, Read
from pipeline.storage.threads import ordered

_LIST_THREADS = 8


def entries(
    sources: Sequence[str], kind: InputKind, config: FetchConfig | None = None, passed: PassedOver | None = None
) -> Iterator[pa.Table]:
    """Yield all inputs of all sources, as tables of `ENTRIES` of about `CHUNK_ROWS` rows. An input may come twice.

    A source is a folder (all objects below it whose name has a suffix of the kind), a glob (``*`` and ``?`` stay within
    a folder, ``**`` does not), a single object, or a manifest: a Parquet, CSV or JSONL file with a column ``uri``. If a
    manifest also has ``etag`` and ``size``, they are taken as true. Local folders are listed in the order of names.
    `RequestError` if a source does not exist.

    ``passed`` counts the files in folders and archives that are no inputs by their names.

    The deadline of ``config`` is also the time in which something must be found in a container, or else it fails.
    """
    assert not isinstance(sources, str)
    buffered: list[pa.Table] = []
    limits = (config or FetchConfig()).limits()
    passed = passed or PassedOver()
    for source in sources:
        for page in _expanded(_pages(source, kind, passed), kind, limits, passed):
            buffered.append(page)
            if sum(part.num_rows for part in buffered) >= CHUNK_ROWS:
                yield pa.concat_tables(buffered)
                buffered = []
    if buffered:
        yield pa.concat_tables(buffered)


def _pages(source: str, kind: InputKind, passed: PassedOver) -> Iterator[pa.Table]:
    """List one source: pages with the columns of `storage.LISTING`."""
    if "://" in source and is_glob(source.split("/")[2]):
        raise RequestError(f"source {source!r}: a glob must name its bucket")
    try:
        if is_glob(source) and not storage.exists(source):
            yield from matching_glob(storage.canonical(source))
        elif storage.is_folder(source):
            _refuse_delta(source)
            for page in storage.walk(source):
                yield _with_suffix(page, kind, passed)
        elif not storage.exists(source):
            raise RequestError(f"source {source!r}: no such file or folder")
        elif (listed := manifest_pages(source, kind)) is not None:
            yield from listed
        else:
            yield listing_page([storage.stat(source)])
    except PermissionError as reason:
        raise RequestError(f"source {source!r}: not allowed to read it") from reason
    except OSError as reason:
        raise RequestError(f"source {source!r}: the store failed to list it ({type(reason).__name__})") from reason
    except InputError as reason:  # raised while a manifest is read
        raise RequestError(f"source {source!r}: the store failed to read it ({reason.code})") from reason


def _refuse_delta(source: str) -> None:
    """`RequestError` if a folder is a Delta table: it also has files that the table has not, or no longer."""
    if storage.is_folder(storage.join(source, "_delta_log")):
        rule = "not all files in its folder are its rows; name its committed files (file_uris()) in a manifest"
        raise RequestError(f"source {source!r} is a Delta table: {rule}")


def _with_suffix(page: pa.Table, kind: InputKind, passed: PassedOver) -> pa.Table:
    """Objects whose name ends in a suffix of the kind, before that of a compression; and objects without a tag."""
    endings = "|".join(re.escape(suffix) for suffix in kind.suffixes)
    pattern = rf"(?:{endings})(?:{'|'.join(re.escape(item) for item in COMPRESSIONS)})?\z"
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    matches = pc.call_function("match_substring_regex", [page["uri"]], options)
    wanted = pc.call_function("or", [matches, pc.call_function("equal", [page["etag"], pa.scalar("")])])
    passed.add(page["uri"].filter(pc.call_function("invert", [wanted])).to_pylist())
    return page.filter(wanted)


def _expanded(pages: Iterable[pa.Table], kind: InputKind, limits: Read, passed: PassedOver) -> Iterator[pa.Table]:
    """Entries of the objects: one for each, or if the object is a container, one for each record or file in it."""

    def containers() -> Iterator[pa.Table | dict[str, Any]]:
        for page in pages:
            kinds = np.array([kind_of(uri) is not None for uri in page["uri"].to_pylist()], bool)
            kinds &= page["etag"].to_numpy() != ""  # an object without a tag cannot be read; fetching gives the reason
            if not kinds.any():
                yield page
                continue
            for start, end in _stretches(kinds):
                if kinds[start]:
                    yield from page.slice(start, end - start).to_pylist()
                else:
                    yield page.slice(start, end - start)

    def expand(item: pa.Table | dict[str, Any]) -> Iterator[pa.Table]:
        return iter([_objects(item, kind)]) if isinstance(item, pa.Table) else members(item, kind, limits, passed)

    def begin(item: pa.Table | dict[str, Any]) -> tuple[pa.Table | None, Iterator[pa.Table]]:
        results = expand(item)
        return next(results, None), results  # only the first page is computed ahead, so that memory stays bounded

    for first, rest in ordered(begin, containers(), _LIST_THREADS):
        if first is not None:
            yield first
            yield from rest


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """Runs [start, end) of equal flags."""
    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return list(itertools.pairwise(edges))


def _objects(page: pa.Table, kind: InputKind) -> pa.Table:
    count = page.num_rows
    columns: dict[str, Any] = {name: page[name] for name in LISTING.names}
    forms = [OBJECT] * count
    if kind.formats:
        forms = [kind.format_of(without_compression(uri)) for uri in page["uri"].to_pylist()]
    columns["format"] = pa.array(forms)
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in ENTRIES], schema=ENTRIES)
