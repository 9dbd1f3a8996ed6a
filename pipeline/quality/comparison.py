"""Comparison: the rows of a candidate beside the current rows of the same inputs, and gates that it must pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import check
from pipeline.errors import InputError
from pipeline.images.outputs import decode_mask
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, digests, keys
from pipeline.table.parts import Part, read_part, scan
from pipeline.table.readers import current_rows, parts_of
from pipeline.text.metrics import Counts, count_boundaries

#: Inputs of which both rows are compared; of more a sample is taken, the same each time.
MOST_PAIRS = 2000
_WORST = 6

_SCORES = ("confidence", "uncertainty", "novelty")
_NUMBERS = {f"{name}_{side}": pa.float64() for name in _SCORES for side in ("old", "new")}
PAIRS = pa.schema(
    [
        *((name, pa.string()) for name in ("uri", "member", "error_old", "error_new")),
        ("agreement", pa.float64()),
        ("changed", pa.float64()),
        *_NUMBERS.items(),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a new model, or a night, must meet. A gate that is null is open."""

    min_mean_iou: float | None = None
    """Smallest mean IoU of the masks of a new model with those of the old one, over the inputs of a pilot."""
    min_boundary_f1: float | None = None
    """Smallest F1 of the paragraph boundaries of a new model against those of the old one."""
    max_area_shift: float | None = None
    """Largest change of the share of all pixels that a class has, from the old model to the new one."""
    max_error_rate: float | None = 0.1
    """Largest fraction of the inputs of a pilot that fail with the new model and did not with the old one."""
    min_listed: float | None = 0.5
    """Smallest number of inputs that a source lists, as a fraction of what it listed the last time."""

    def __post_init__(self) -> None:
        for name in ("min_mean_iou", "min_boundary_f1", "max_area_shift", "max_error_rate", "min_listed"):
            value = getattr(self, name)
            check(self, name, value is None or 0 <= value <= 1, "be in [0, 1], or null")

    def broken(self, found: dict[str, Any]) -> list[str]:
        """The gates that a comparison does not pass, one sentence each."""
        measured = (
            ("min_mean_iou", "mean_iou", "the mean IoU with the old model"),
            ("min_boundary_f1", "boundary_f1", "the F1 of boundaries against the old model"),
            ("max_area_shift", "largest_area_shift", "the largest shift of a class's area"),
            ("max_error_rate", "newly_failed_rate", "the rate of inputs that fail only with the new model"),
        )
        reasons = []
        for gate, name, what in measured:
            limit, value = getattr(self, gate), found.get(name)
            if limit is None or name not in found:  # a figure of the other kind of tables
                continue
            if value is None:
                reasons.append(f"{what} could not be measured on {found['pairs']} inputs, so {gate} is not met")
            elif value < limit if gate.startswith("min") else value > limit:
                than = "below" if gate.startswith("min") else "above"
                reasons.append(f"{what} is {value:.3g}, {than} {gate} {limit:g}")
        if found["classes_differ"]:
            reasons.append("the classes of the two models differ, so their masks cannot be compared")
        return reasons

    def broken_listing(self, listed: int, before: int) -> str | None:
        """Why a source lists too few inputs, if it does. ``before``: what it listed the last time."""
        if self.min_listed is None or not before or listed >= self.min_listed * before:
            return None
        return (
            f"the source lists {listed} inputs, {listed / before:.0%} of the {before} of last time, below min_listed "
            f"{self.min_listed:g}"
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two models say of one input."""

    old: dict[str, Any]
    """The row of the table, as is ``new``."""
    new: dict[str, Any]
    compared: dict[str, Any]
    """The row of `PAIRS`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    pairs: pa.Table
    """A row of `PAIRS` for each input that both tables have: error codes, agreement (mean IoU of the masks over the
    classes in either, or F1 of the boundaries), the fraction of pixels or boundaries that changed, and scores."""
    found: dict[str, Any]
    """The figures over all pairs, for `Gates` and for people."""
    worst: list[Pair]
    """The inputs that agree least, the worst first."""


def compare(
    old_sink: str, new_sink: str, *, classes: tuple[tuple[str, ...] | None, tuple[str, ...] | None] = (None, None)
) -> Comparison:
    """Compare the current rows of the inputs that both sinks have, in the same version. ``classes``: those of the old
    and the new model."""
    chosen, inputs = _sample(old_sink, new_sink)
    new, old = (current_rows(_rows_of(sink, chosen)) for sink in (new_sink, old_sink))
    rows = {(row["uri"], row["member"]): row for row in old.to_pylist()}
    differ = classes[0] is not None and classes[1] is not None and classes[0] != classes[1]
    names = classes[1] or classes[0] or ()
    areas = np.zeros((2, max(1, len(names))), np.int64)
    counts, pairs = Counts(), []
    for after in new.to_pylist():
        before = rows[after["uri"], after["member"]]
        row, found = _compared(before, after, areas, differ)
        pairs.append(Pair(old=before, new=after, compared=row))
        counts += found
    compared = [pair.compared for pair in pairs]
    worst = [pair for pair in pairs if pair.compared["agreement"] is not None]
    worst.sort(key=lambda pair: (pair.compared["agreement"], pair.new["uri"]))
    return Comparison(
        pairs=pa.Table.from_pylist(compared, schema=PAIRS),
        found=_figures(compared, inputs, areas, names, counts, differ, "mask" in new.column_names),
        worst=worst[:_WORST],
    )


def _sample(old_sink: str, new_sink: str) -> tuple[KeySet, int]:
    """At most `MOST_PAIRS` versions of inputs (`VERSION_KEY`) that both tables have, those with the smallest hashes of
    their names; and how many both have."""
    old = KeySet(keys(rows, VERSION_KEY) for _, rows in _scanned(old_sink))
    new = [rows.select(VERSION_KEY) for _, rows in _scanned(new_sink)]
    names = [rows.filter(pa.array(old.contains(keys(rows, VERSION_KEY)))) for rows in new]
    both = pa.concat_tables(names) if names else pa.table({})
    if not both.num_rows:
        return KeySet(), 0
    _, first = np.unique(digests(both, INPUT_KEY), axis=0, return_index=True)
    return KeySet([keys(both.take(first[:MOST_PAIRS]), VERSION_KEY)]), len(first)


def _scanned(sink: str) -> Iterator[tuple[Part, pa.Table]]:
    return scan(storage.join(sink, "table"), parts_of(sink))


def _rows_of(sink: str, among: KeySet) -> pa.Table:
    """The rows of some versions of inputs (`VERSION_KEY`) in a sink's table."""
    uri, found = storage.join(sink, "table"), []
    for part, scanned in _scanned(sink):
        here = among.contains(keys(scanned, VERSION_KEY))
        if here.any():
            found.append(read_part(uri, part).filter(pa.array(here)))
    if not found:
        return pa.table({name: pa.array([], pa.string()) for name in (*INPUT_KEY, "run_id")})
    return pa.concat_tables(found, promote_options="permissive")


def _compared(
    old: dict[str, Any], new: dict[str, Any], areas: np.ndarray, differ: bool
) -> tuple[dict[str, Any], Counts]:
    row = {name: new[name] for name in INPUT_KEY}
    row |= {f"error_{side}": (item["error"] or {}).get("code") for side, item in (("old", old), ("new", new))}
    row |= {f"{name}_{side}": item.get(name) for name in _SCORES for side, item in (("old", old), ("new", new))}
    row |= {"agreement": None, "changed": None}
    if old["error"] is not None or new["error"] is not None:
        return row, Counts()
    if "mask" in new:
        return row | ({} if differ else _masks(old, new, areas)), Counts()
    starts = [[span["start"] for span in item["paragraphs"]] for item in (old, new)]
    found = count_boundaries(*starts)
    whole = found.hits + found.extra + found.missed
    changed = (found.extra + found.missed) / whole if whole else 0.0
    return row | {"agreement": found.f1, "changed": changed}, found


def _masks(old: dict[str, Any], new: dict[str, Any], areas: np.ndarray) -> dict[str, Any]:
    """The agreement of two masks; their areas are added to ``areas``."""
    try:
        masks = [decode_mask(item["mask"]["bytes"]).astype(np.int64) for item in (old, new)]
    except InputError:
        return {}
    if masks[0].shape != masks[1].shape:
        return {}  # the object has changed between the two
    count = max(areas.shape[1], int(max(mask.max() for mask in masks)) + 1)
    joint = np.bincount(masks[0].ravel() * count + masks[1].ravel(), minlength=count * count).reshape(count, count)
    hits, union = joint.diagonal(), joint.sum(0) + joint.sum(1) - joint.diagonal()
    areas += np.stack([joint.sum(1), joint.sum(0)])[:, : areas.shape[1]]
    present = union > 0
    return {
        "agreement": float((hits[present] / union[present]).mean()),
        "changed": float(1 - hits.sum() / joint.sum()),
    }


def _figures(
    rows: list[dict[str, Any]],
    inputs: int,
    areas: np.ndarray,
    classes: Iterable[str],
    counts: Counts,
    differ: bool,
    is_of_images: bool,
) -> dict[str, Any]:
    count = len(rows)
    failed = [sum(row[f"error_{side}"] is not None for row in rows) for side in ("old", "new")]
    newly = sum(row["error_new"] is not None and row["error_old"] is None for row in rows)
    found: dict[str, Any] = {
        "inputs": inputs,
        "pairs": count,
        "failed_old": failed[0],
        "failed_new": failed[1],
        "newly_failed_rate": newly / count if count else None,
        "classes_differ": differ,
        **{name: _mean(row[name] for row in rows) for name in (*_NUMBERS, "changed")},
    }
    if not is_of_images:
        whole = counts.hits + counts.extra + counts.missed
        return found | {"boundary_f1": counts.f1 if whole else None}
    shares = areas / np.maximum(1, areas.sum(1, keepdims=True))
    shifts = dict(zip(classes, (shares[1] - shares[0]).tolist(), strict=False))
    return found | {
        "mean_iou": _mean(row["agreement"] for row in rows),
        "area_shifts": shifts,
        "largest_area_shift": max(map(abs, shifts.values())) if shifts and areas.sum() else None,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
