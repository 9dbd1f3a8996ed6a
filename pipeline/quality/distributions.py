"""What the rows of a run look like: counts and histograms over all of them, and a few rows to show.

Only narrow columns are read, part after part, so that the memory is bounded whatever the size of the run. The result is
stored with the run (``statistics.json``), so that later runs can be compared with it without reading its rows.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.runs.life import read_json, store_json
from pipeline.source.keys import INPUT_KEY, digests
from pipeline.storage.columnar import ParquetReader, own_file
from pipeline.table.parts import WHOLE_BYTES, Part, as_written_here, read_part

FILE = "statistics.json"
_FORMAT = 1
_BINS = 100
_SHARE_BINS = 20
_PIECE_ROWS = 1 << 15
_SAMPLE = 2_000  # rows from which a stratified sample is drawn
_MOST_CLASSES = 256  # of which the shares are counted

#: Ranges of the measures that are counted, by column. Values outside count in the first and the last bin.
RANGES = {"confidence": (0.0, 1.0), "novelty": (0.0, 100.0), "paragraph_length": (0.0, 5.0)}
_NARROW = (
    "uri",
    "member",
    "run_id",
    "error",
    "confidence",
    "uncertainty",
    "novelty",
    "class_pixels",
    "num_chars",
    "num_paragraphs",
)


@dataclass(frozen=True, order=True)
class Place:
    """Where a row lies: its part, by its position in the list of parts, and its position in the part."""

    part: int
    row: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row that may be shown, with its small columns."""

    place: Place
    uri: str
    member: str | None
    confidence: float | None
    uncertainty: float | None
    novelty: float | None
    dominant: int | None
    """The class with the most pixels."""

    @property
    def name(self) -> str:
        return self.uri if self.member is None else f"{self.uri} #{self.member}"


@dataclass(kw_only=True)
class Distributions:
    """Counts and histograms of the rows of a run."""

    rows: int = 0
    """Rows that were read, failed ones included."""
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    """Histograms of the rows without an error, by measure of `RANGES`; (100,) int64."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pixels of each class."""
    dominant: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each class the number of images of which it has the most pixels."""
    shares: np.ndarray = field(default_factory=lambda: np.zeros((0, _SHARE_BINS), np.int64))
    """For each class a histogram of its share of an image, from 0 to 1."""
    parts_read: int = 0
    parts: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all parts of the run were read."""
        return self.parts_read == self.parts

    def store(self, folder: str, *, model: str, classes: Sequence[str] | None) -> None:
        """Write ``statistics.json`` into the folder of the run."""
        content = {
            "format": _FORMAT,
            "model": model,
            "complete": self.is_complete,
            "rows": self.rows,
            "failed": self.failed,
            "errors": self.errors,
            "measures": {name: found.tolist() for name, found in self.measures.items()},
        }
        if classes is not None and len(self.pixels):
            kept = range(min(len(classes), len(self.pixels)))
            content["classes"] = [
                {
                    "name": classes[index],
                    "pixels": int(self.pixels[index]),
                    "dominant": int(self.dominant[index]),
                    "shares": self.shares[index].tolist(),
                }
                for index in kept
            ]
        store_json(storage.join(folder, FILE), content)


def earlier(runs: str, run_id: str, most: int = 10) -> list[tuple[str, dict[str, Any]]]:
    """Names and ``statistics.json`` of the last runs before this one, newest first. Runs without rows are left out."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in sorted((name for name in storage.names(runs) if name < run_id), reverse=True)[: 4 * most]:
        content = read_json(storage.join(runs, name, FILE))
        if content is not None and content.get("format") == _FORMAT and content["rows"] > content["failed"]:
            found.append((name, content))
        if len(found) == most:
            break
    return found


class Reading:
    """Reads the rows of a run once: `distributions`, and the rows that are shown."""

    def __init__(self, table: str, parts: Sequence[Part], run_id: str, *, shown: int, deadline_s: float) -> None:
        """``shown``: how many of the most uncertain, of the most novel, and of each error code are kept."""
        self._table, self.parts, self._run_id, self._shown = table, parts, run_id, shown
        self._until = time.monotonic() + deadline_s
        self.found = Distributions(parts=len(parts))
        self.failed: dict[str, list[dict[str, Any]]] = {}
        """Some failed rows by code: uri, member and error."""
        self._sample: list[tuple[int, Place, Shown]] = []
        self._uncertain: list[tuple[float, Place, Shown]] = []
        self._novel: list[tuple[float, Place, Shown]] = []
        for number in np.random.default_rng(0).permutation(len(parts)).tolist():
            if time.monotonic() > self._until and self.found.parts_read:
                break
            try:
                for start, rows in _narrow(table, parts[number], _NARROW):
                    self._add(number, start, rows)
            except FileNotFoundError:  # another tool has deleted it
                pass
            self.found.parts_read += 1

    @property
    def uncertain(self) -> list[Shown]:
        """The rows with the largest uncertainty, the largest first."""
        return [shown for _, _, shown in sorted(self._uncertain, reverse=True)]

    @property
    def novel(self) -> list[Shown]:
        """The rows with the largest novelty, the largest first."""
        return [shown for _, _, shown in sorted(self._novel, reverse=True)]

    @property
    def sample(self) -> list[Shown]:
        """Rows without an error, chosen by a hash of their names, in its order. The same inputs give the same ones."""
        return [shown for _, _, shown in sorted(self._sample, reverse=True)]

    def _add(self, part: int, start: int, rows: pa.Table) -> None:
        positions = np.flatnonzero(self._is_mine(rows))
        rows = rows.take(pa.array(positions))
        has_failed = rows["error"].is_valid().to_numpy(zero_copy_only=False)
        self._count_failed(rows.filter(pa.array(has_failed)))
        self.found.rows += rows.num_rows
        positions, rows = positions[~has_failed] + start, rows.filter(pa.array(~has_failed))
        if not rows.num_rows:
            return
        self._count_measures(rows)
        dominant = self._count_classes(rows)
        self._choose(part, positions, rows, dominant)

    def _is_mine(self, rows: pa.Table) -> np.ndarray:
        """Whether each row is of this run. A part can also hold rows of earlier runs, which this one has rewritten."""
        return pc.call_function("equal", [rows["run_id"], pa.scalar(self._run_id)]).to_numpy(zero_copy_only=False)

    def _count_failed(self, rows: pa.Table) -> None:
        self.found.failed += rows.num_rows
        if not rows.num_rows:
            return
        codes = rows["error"].combine_chunks().field("code")
        for index, code in enumerate(codes.to_pylist()):
            self.found.errors[code] = self.found.errors.get(code, 0) + 1
            kept = self.failed.setdefault(code, [])
            if len(kept) < self._shown:
                kept.append({name: rows[name][index].as_py() for name in ("uri", "member", "error")})

    def _count_measures(self, rows: pa.Table) -> None:
        for name, (low, high) in RANGES.items():
            values = _paragraph_length(rows) if name == "paragraph_length" else _floats(rows, name)
            values = values[np.isfinite(values)]
            if len(values):
                counts, _ = np.histogram(np.clip(values, low, high), _BINS, (low, high))
                self.found.measures[name] = self.found.measures.get(name, 0) + counts

    def _count_classes(self, rows: pa.Table) -> np.ndarray | None:
        if "class_pixels" not in rows.column_names or rows["class_pixels"].null_count:
            return None
        lists = rows["class_pixels"].combine_chunks()
        count = len(lists[0])
        pixels = lists.flatten().to_numpy().reshape(-1, count)
        dominant = pixels.argmax(1)
        if len(self.found.pixels) != count:
            self.found.pixels, self.found.dominant = np.zeros(count, np.int64), np.zeros(count, np.int64)
            self.found.shares = np.zeros((min(count, _MOST_CLASSES), _SHARE_BINS), np.int64)
        self.found.pixels += pixels.sum(0)
        self.found.dominant += np.bincount(dominant, minlength=count)
        shares = pixels[:, :_MOST_CLASSES] / np.maximum(1, pixels.sum(1, keepdims=True))
        bins = np.minimum(_SHARE_BINS - 1, (shares * _SHARE_BINS).astype(np.int64))
        for index, column in enumerate(bins.T):
            self.found.shares[index] += np.bincount(column, minlength=_SHARE_BINS)
        return dominant

    def _choose(self, part: int, positions: np.ndarray, rows: pa.Table, dominant: np.ndarray | None) -> None:
        columns = {name: _floats(rows, name) for name in ("confidence", "uncertainty", "novelty")}

        def shown(index: int) -> Shown:
            values = {name: _finite(column[index]) for name, column in columns.items()}
            return Shown(
                place=Place(part, int(positions[index])),
                uri=rows["uri"][index].as_py(),
                member=rows["member"][index].as_py(),
                dominant=None if dominant is None else int(dominant[index]),
                **values,
            )

        hashes = digests(rows, INPUT_KEY)[:, 0]
        # The smallest hashes: kept as a heap of their negatives, whose smallest goes first.
        _keep(self._sample, [-int(value) for value in hashes], _SAMPLE, shown)
        _keep(self._uncertain, columns["uncertainty"].tolist(), self._shown, shown)
        _keep(self._novel, columns["novelty"].tolist(), self._shown, shown)

    def stratified(self, count: int) -> list[Shown]:
        """Rows spread over dominant classes and, within each, over tenths of the confidence of the sample."""
        strata: dict[tuple[int, int], list[Shown]] = {}
        found = self.sample
        edges = np.quantile([item.confidence or 0.0 for item in found] or [0.0], np.linspace(0, 1, 11))[1:-1]
        for item in found:
            tenth = int(np.searchsorted(edges, item.confidence or 0.0))
            strata.setdefault((-1 if item.dominant is None else item.dominant, tenth), []).append(item)
        classes: dict[int, list[tuple[int, int]]] = {}
        for key in sorted(strata):
            classes.setdefault(key[0], []).append(key)
        # Round after round: one row of each class, each time of another tenth, far from the last.
        order = [_spread(found) for _, found in sorted(classes.items())]
        chosen: list[Shown] = []
        for round_number in range(len(found)):
            for keys in order:
                stratum = strata[keys[round_number % len(keys)]]
                if round_number // len(keys) < len(stratum) and len(chosen) < count:
                    chosen.append(stratum[round_number // len(keys)])
            if len(chosen) >= count:
                break
        return chosen

    def rows(self, places: Sequence[Place], columns: Sequence[str] | None = None) -> dict[Place, dict[str, Any]]:
        """The whole rows at some places. Those of parts that are gone are left out."""
        found: dict[Place, dict[str, Any]] = {}
        for number in sorted({place.part for place in places}):
            wanted = sorted(place.row for place in places if place.part == number)
            try:
                for start, rows in _narrow(self._table, self.parts[number], columns, 256):
                    for row in wanted:
                        if start <= row < start + rows.num_rows:
                            found[Place(number, row)] = rows.slice(row - start, 1).to_pylist()[0]
                    if wanted[-1] < start + rows.num_rows:
                        break
            except FileNotFoundError:
                continue
        return found

    def familiar(self, most_rows: int) -> tuple[list[Place], np.ndarray]:
        """Places and embeddings (n, d) of rows whose novelty is at most the median, from a few parts."""
        places: list[Place] = []
        vectors: list[np.ndarray] = []
        limit = np.median([item.novelty for item in self.sample if item.novelty is not None] or [0.0])
        for number in np.random.default_rng(1).permutation(len(self.parts)).tolist():
            if len(places) >= most_rows or time.monotonic() > self._until:
                break
            try:
                for start, rows in _narrow(self._table, self.parts[number], ("run_id", "novelty", "embedding"), 1024):
                    if "embedding" not in rows.column_names:
                        break
                    is_mine = self._is_mine(rows)
                    has = rows["embedding"].is_valid().to_numpy(zero_copy_only=False)
                    with np.errstate(invalid="ignore"):
                        chosen = np.flatnonzero(is_mine & has & (_floats(rows, "novelty") <= limit))
                    places += [Place(number, start + int(row)) for row in chosen]
                    vectors += [np.asarray(rows["embedding"][int(row)].values, np.float32) for row in chosen]
                    if len(places) >= most_rows:
                        break
            except FileNotFoundError:
                continue
        size = len(vectors[0]) if vectors else 0
        kept = [index for index, vector in enumerate(vectors) if len(vector) == size]
        return [places[index] for index in kept], np.array([vectors[index] for index in kept], np.float32)


def nearest(vector: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``others`` (n, d) that are most similar to a vector (d,) by the cosine: indices, and cosines."""
    lengths = np.linalg.norm(others, axis=1) * max(1e-12, float(np.linalg.norm(vector)))
    cosines = others @ vector / np.maximum(1e-12, lengths)
    first = np.argsort(-cosines, kind="stable")[:count]
    return first, cosines[first]


def _narrow(
    table: str, part: Part, columns: Sequence[str] | None, piece_rows: int = _PIECE_ROWS
) -> Iterator[tuple[int, pa.Table]]:
    """Pieces of a part with those of the columns that it has, each with the position of its first row."""
    if part.kept is not None or part.size <= WHOLE_BYTES:
        yield 0, read_part(table, part, None if columns is None else list(columns))
        return
    uri, start = part.uri(table), 0
    with own_file(uri), storage.open_file(uri) as file:
        reader = ParquetReader(file)
        names = [name for name in reader.schema.names if columns is None or name in columns]
        for batch in reader.batches(names, piece_rows):
            yield start, as_written_here(pa.Table.from_batches([batch]), part, columns)
            start += batch.num_rows


def _keep(heap: list[tuple[Any, Place, Shown]], values: Sequence[Any], most: int, shown: Any) -> None:
    """Put the rows with the largest values into a heap of at most ``most``. NaN is left out."""
    for index, value in enumerate(values):
        if value == value and (len(heap) < most or value > heap[0][0]):
            found = shown(index)
            item = (value, found.place, found)
            if len(heap) < most:
                heapq.heappush(heap, item)
            else:
                heapq.heapreplace(heap, item)


def _spread(keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The lowest, the highest, and then those between."""
    order: list[tuple[int, int]] = []
    left = list(keys)
    while left:
        order.append(left.pop(0))
        if left:
            order.append(left.pop())
    return order


def _floats(rows: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where it is null or not there."""
    if name not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    return rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _paragraph_length(rows: pa.Table) -> np.ndarray:
    """The common logarithm of the mean number of characters of a paragraph of each document."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(_floats(rows, "num_chars") / _floats(rows, "num_paragraphs"))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def mean_share(content: Mapping[str, Any]) -> dict[str, float]:
    """The share of the pixels of each class, from a ``statistics.json``."""
    classes = content.get("classes", [])
    total = sum(item["pixels"] for item in classes) or 1
    return {item["name"]: item["pixels"] / total for item in classes}
