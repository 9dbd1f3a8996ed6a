"""Queues for labelling: inputs that a model is unsure of and that are unlike each other, with their masks to correct.

Rows are ranked by uncertainty and novelty. Of the best, a greedy k-center selection (Gonzalez 1985; for active learning
Sener and Savarese 2018, Active Learning for Convolutional Neural Networks: A Core-Set Approach) by embedding takes one
after the other that is far from all before it; the distance is weighted by the rank.
"""

from __future__ import annotations

import io
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.exports.export import background_ids, new_folder, shared_classes, survey
from pipeline.exports.forms import FORMS, Form, Plan, write_classes
from pipeline.exports.names import GivenNames, Names
from pipeline.images.inputs import FORMATS
from pipeline.images.letterbox import IMAGES
from pipeline.images.outputs import HUGGINGFACE_FEATURES, STORED_AS_IS
from pipeline.originals import Originals
from pipeline.rows import FailedInput
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.storage.columnar import own_file, read_parquet
from pipeline.table.log import columns_of
from pipeline.table.queries import CurrentRows
from pipeline.table.readers import open_delta
from pipeline.table.schema import KEY_COLUMNS, leaves, with_huggingface_features

MANIFEST, COPIES = "manifest.parquet", "images"
#: The columns of a queue's manifest. ``name`` is that in the tasks; ``place`` begins at 0, with the most informative.
COLUMNS = with_huggingface_features(
    pa.schema(
        [
            *KEY_COLUMNS,
            ("name", pa.string()),
            ("place", pa.int64()),
            ("why", pa.string()),
            *((name, pa.float32()) for name in ("confidence", "uncertainty", "novelty")),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("mask", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("model", pa.string()),
            ("run_id", pa.string()),
        ]
    ),
    HUGGINGFACE_FEATURES,
)

_SCORES = ("uncertainty", "novelty")
_POOL_FACTOR, _SMALLEST_POOL = 10, 1000
_FAR = 1e9  # the distance to nothing
_ROWS = 64  # that are Python objects at once


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Why a row was chosen."""

    place: int
    why: str


@dataclass(kw_only=True)
class Queued:
    """What was written."""

    queued: int = 0
    """Inputs in the queue."""
    unreadable: int = 0
    """Inputs that were chosen and left out, since their images are gone or changed."""


def write_queue(
    sink: str,
    out: str,
    count: int,
    *,
    where: str | None,
    without: Sequence[str],
    background: Sequence[str],
    has_copies: bool,
    tell: Callable[[FailedInput], None],
) -> Queued:
    """Write the ``count`` most informative current rows of a sink of images as a queue in a new folder.

    ``without``: earlier queues, whose inputs are left out. ``has_copies``: whether the images are copied. ``tell`` gets
    each image that could not be read. `RequestError`, before anything is written, if the folder is not empty, the table
    is one of documents, or the classes of its rows are not known.
    """
    folder = new_folder(out)
    if "mask" not in columns_of(open_delta(sink)).names:
        raise RequestError(f"sink {sink!r} has no masks; a queue is of masks, export --to label-studio takes documents")
    known = KeySet(keys(read_queue(queue), INPUT_KEY) for queue in without)
    current = CurrentRows(sink, "error is null" if where is None else f"error is null and ({where}\n)")
    if len(known) and len(current):
        current = current.only(~known.contains(keys(_read(current, INPUT_KEY), INPUT_KEY)))
    chosen, choices = choose(current, count)
    common, models = survey(chosen)
    classes, palette = shared_classes(sink, models)
    hidden = background_ids(background, classes)
    done = Queued()
    if not choices:
        return done
    names: dict[tuple[str, str | None], str] = {}
    plan = Plan(
        out=folder,
        names=GivenNames(names),
        columns=chosen.schema,
        classes=classes,
        palette=palette,
        background=hidden,
        images=folder / COPIES if has_copies else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_classes(plan, ignore_index=255 if len(classes) <= 255 else None)
    writers = [_Manifest(plan, dict(zip(_inputs(chosen), choices, strict=True))), *_forms(plan)]
    given, originals = Names("", IMAGES.suffixes), Originals()
    for row in _rows(chosen):
        try:
            data = originals.image_file(row) if has_copies else None
        except InputError as reason:
            done.unreadable += 1
            tell(
                FailedInput(uri=row["uri"], member=row["member"], label=None, code=reason.code, message=reason.message)
            )
            continue
        name = names[row["uri"], row["member"]] = _flat_name(given, common, row, data)
        if data is not None:
            _write(folder / COPIES / name, data)
        for writer in writers:
            writer.add(row)
        done.queued += 1
    for writer in writers:
        writer.close()
    return done


def read_queue(queue: str, columns: Sequence[str] = INPUT_KEY) -> pa.Table:
    """Columns of a queue's manifest. `RequestError` if the folder has none."""
    where = storage.join(queue, MANIFEST)
    try:
        data = storage.read(where)
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"queue {queue!r} has no {MANIFEST}; name the folder that label_queue wrote") from reason
    with own_file(where):
        rows = read_parquet(data)
    if not set(COLUMNS.names) <= set(rows.column_names):
        raise RequestError(f"queue {queue!r}: its {MANIFEST} is not that of a queue")
    return rows.select(columns)


def choose(current: CurrentRows, count: int) -> tuple[CurrentRows, list[Choice]]:
    """The ``count`` most informative rows, or all if there are fewer, and why each was chosen, in the same order. Rows
    must have no error.

    Two passes: over the scores of all rows, and over the embeddings of the best ``10 * count``, at least 1,000.
    """
    if not len(current):
        return current, []
    scores = _read(current, [name for name in _SCORES if name in current.schema.names])
    values = {name: column.cast(pa.float64()).to_numpy(zero_copy_only=False) for name, column in _columns(scores)}
    ranks = {name: _ranks(found) for name, found in values.items()}
    score = informativeness(list(ranks.values()))
    pool = np.sort(np.argsort(-score, kind="stable")[: max(_POOL_FACTOR * count, _SMALLEST_POOL)])
    columns = [name for name in ("uri", "embedding") if name in current.schema.names]
    rows = _read(current.only(_mask(len(score), pool)), columns)
    embedding = _embeddings(rows["embedding"]) if "embedding" in columns else None
    if embedding is None:
        taken, distances = _by_folder(score[pool], rows["uri"].to_pylist(), count), None
    else:
        taken, distances = _k_center(score[pool], embedding, count)
    order = np.argsort(taken, kind="stable")
    places = pool[taken[order]]
    choices = [
        Choice(
            place=place,
            why=_why(
                {name: (float(found[row]), float(ranks[name][row])) for name, found in values.items()},
                None if distances is None else distances[place],
            ),
        )
        for row, place in zip(places.tolist(), order.tolist(), strict=True)
    ]
    return current.only(_mask(len(score), places)), choices


def informativeness(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """The mean rank of each row over the scores that it has: (rows,) in [0, 1]; 0 where it has none."""
    stacked = np.stack(ranks)
    known = ~np.isnan(stacked)
    return np.where(known, stacked, 0).sum(0) / np.maximum(known.sum(0), 1)


class _Manifest:
    """``manifest.parquet``: the inputs of the queue, in the order of the table."""

    def __init__(self, plan: Plan, choices: Mapping[tuple[str, str | None], Choice]) -> None:
        self._names, self._choices = plan.names, choices
        compression: Any = {name: "none" if name in STORED_AS_IS else "zstd" for name in leaves(COLUMNS)}
        self._writer = pq.ParquetWriter(plan.out / MANIFEST, COLUMNS, compression=compression)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        choice = self._choices[row["uri"], row["member"]]
        own = {"name": self._names.of(row["uri"], row["member"], None), "place": choice.place, "why": choice.why}
        self._rows.append({name: row.get(name) for name in COLUMNS.names} | own)
        if len(self._rows) >= _ROWS:
            self._store()

    def close(self) -> None:
        self._store()
        self._writer.close()

    def _store(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, COLUMNS))
        self._rows = []


def _forms(plan: Plan) -> Iterator[Form]:
    """Label Studio's and CVAT's files, each in a folder of its own: tools take what lies beside a file for theirs."""
    for name in ("label-studio", "cvat"):
        folder = plan.out / name
        folder.mkdir()
        yield FORMS[name](
            Plan(
                out=folder,
                names=plan.names,
                columns=plan.columns,
                classes=plan.classes,
                palette=plan.palette,
                background=plan.background,
                images=plan.images,
            )
        )


def _flat_name(given: Names, common: str, row: Mapping[str, Any], data: bytes | None) -> str:
    """A name of its own without folders, which tools drop from the files that people give them.

    It ends as an image's name does, if the input's own name does or if its bytes are known.
    """
    member = "" if row["member"] is None else f"/{row['member']}"
    path = f"{row['uri'].removeprefix(common)}{member}".strip("/")
    stem, ending = posixpath.splitext(path)
    if ending.lower() not in IMAGES.suffixes:
        stem, ending = path, "" if data is None else _ending(data)
    return given.of(f"{stem.replace('/', '_')}{ending}", None, None)


def _ending(data: bytes) -> str:
    """The ending that the format of an image has."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return f".{str(picture.format).lower()}"
    except Exception:  # the tools will tell
        return ""


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _inputs(current: CurrentRows) -> list[tuple[str, str | None]]:
    found = _read(current, INPUT_KEY)
    return list(zip(*(found[name].to_pylist() for name in INPUT_KEY), strict=True))


def _rows(current: CurrentRows) -> Iterator[dict[str, Any]]:
    for rows in current.pieces():
        for start in range(0, rows.num_rows, _ROWS):
            yield from rows.slice(start, _ROWS).to_pylist()


def _columns(rows: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    return zip(rows.column_names, rows.columns, strict=True)


def _read(current: CurrentRows, columns: Sequence[str]) -> pa.Table:
    return pa.concat_tables(current.pieces(columns))


def _k_center(score: np.ndarray, embedding: np.ndarray, count: int) -> tuple[np.ndarray, list[float]]:
    """Rows (n,) in the order in which they are taken, and how far each was from those before it.

    The first is that of the best score. Rows without an embedding count as infinitely close, so they come last.
    """
    known = np.asarray(~np.isnan(embedding).any(axis=1))
    spread = np.nanstd(embedding[known], axis=0)
    points = np.where(known[:, None], embedding, 0) / np.where(spread > 0, spread, 1)
    distance = np.where(known, _FAR, 0.0)
    left = np.ones(score.shape, bool)
    taken, far = [], []
    for _ in range(min(count, len(score))):
        weighted = score * distance if taken else score
        # Where nothing is left that is far from the others, the score alone decides.
        row = int(np.where(left, weighted + 1e-12 * score, -1.0).argmax())
        taken.append(row)
        far.append(float(distance[row]))
        left[row] = False
        if known[row]:
            distance = np.minimum(distance, np.sqrt(((points - points[row]) ** 2).sum(1)))
    return np.array(taken, np.int64), far


def _by_folder(score: np.ndarray, uris: Sequence[str], count: int) -> np.ndarray:
    """Rows by score, but of each folder at most twice its equal share, as long as others are left."""
    folders = [uri.rpartition("/")[0] for uri in uris]
    most = math.ceil(2 * count / max(1, len(set(folders))))
    seen: Counter[str] = Counter()
    first, rest = [], []
    for row in np.argsort(-score, kind="stable").tolist():
        seen[folders[row]] += 1
        (first if seen[folders[row]] <= most else rest).append(row)
    return np.array([*first, *rest][:count], np.int64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Which fraction of the known values is smaller, equal ones counting half: (rows,); NaN for unknown ones."""
    known = np.sort(values[~np.isnan(values)])
    below, up_to = np.searchsorted(known, values, "left"), np.searchsorted(known, values, "right")
    return np.where(np.isnan(values), np.nan, (below + up_to) / 2 / max(1, len(known)))


def _embeddings(column: pa.ChunkedArray) -> np.ndarray | None:
    """(rows, d), NaN where a row has none; None if none has one, or if they are not of one size."""
    found = column.to_pylist()
    sizes = {len(item) for item in found if item is not None}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    return np.array([item if item is not None else [np.nan] * size for item in found], np.float64)


def _mask(count: int, rows: np.ndarray) -> np.ndarray:
    chosen = np.zeros(count, bool)
    chosen[rows] = True
    return chosen


def _why(found: Mapping[str, tuple[float, float]], distance: float | None) -> str:
    """A sentence for people: the values, how they compare, and the distance to what was taken before."""
    said = [
        f"{name} {value:.3g}, above {100 * rank:.0f} % of the rows"
        for name, (value, rank) in found.items()
        if not math.isnan(rank)
    ]
    if distance is not None and 0 < distance < _FAR:
        said.append(f"{distance:.3g} from the nearest one before it")
    return "; ".join(said) or "no score"
