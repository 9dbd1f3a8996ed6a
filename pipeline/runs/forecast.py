"""Forecast: which inputs a run would process and why, and how long it would take, from a timed sample of them."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.runs.settings import why_redone
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, keys
from pipeline.table.delta import Table
from pipeline.table.manifest import Manifest, split

SAMPLE = 200
_SHORT_SAMPLE = 1.25  # upper margin, as a short sample misses slow phases of a store, other load, and rare large inputs
_BLOCKS = 16

#: A function that processes blocks of entries, writes part files into a folder, and yields the receipt of each part.
Receipts = Callable[[list[pa.Table], str], Iterator[dict[str, Any]]]


def forecast(
    entries: Iterable[pa.Table],
    table: Table,
    sink: str,
    *,
    model: str,
    settings: str,
    described: Mapping[str, Any],
    retry_errors: bool,
    limit: int | None,
    block_bytes: int,
    receipts: Receipts,
    stages: tuple[str, ...],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compare a listing with the table, and predict the run's time with a range. It leaves nothing in the sink.

    ``described`` are the settings with the digest ``settings``; they are compared with those of other rows to say which
    setting differs.
    """
    contents = table.contents(model, settings, every_model=True)
    with tempfile.TemporaryDirectory(prefix="parquetry-") as folder:
        manifest = Manifest(folder)
        manifest.write(entries, contents.done(retry_errors), limit)
        counts = dict.fromkeys(("new", "changed", "other_model_or_settings", "done", "failed"), 0)
        redone: Counter[tuple[str, str]] = Counter()
        pending = []
        for rows in manifest.rows():
            version = keys(rows, VERSION_KEY)
            known, is_sound = contents.inputs.contains(keys(rows, INPUT_KEY)), contents.sound.contains(version)
            is_failed = contents.failed.contains(version) & ~is_sound
            unexplained = ~is_sound & ~is_failed
            for kind, others in contents.others.items():
                mine = others.contains(version) & unexplained
                redone[kind] += int(mine.sum())
                unexplained &= ~mine
            counts["new"] += int((~known).sum())
            counts["changed"] += int((known & unexplained).sum())
            counts["done"] += int(is_sound.sum())
            counts["failed"] += int(is_failed.sum())
            pending.append(rows["ordinal"].to_numpy()[rows["pending"].to_numpy(zero_copy_only=False)])
        counts["other_model_or_settings"] = redone.total()
        reasons = [
            {"inputs": count, "because": why_redone(sink, *kind, described, model)}
            for kind, count in redone.most_common()
            if count
        ]
        listing = {"listed": manifest.listed, "repeated": manifest.repeated, "pending": manifest.pending} | counts
        say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in listing.items()))
        for reason in reasons:
            say(f"{reason['inputs']} are done again: {reason['because']}")
        listing |= {"redone": reasons}
        if not manifest.pending:
            return listing | {"predicted_seconds": 0.0, "predicted_range": [0.0, 0.0], "sample": 0, "assumed": []}
        ordinals = np.concatenate(pending)
        chosen = np.random.default_rng(0).choice(ordinals, min(SAMPLE, len(ordinals)), replace=False)
        picked = [rows.filter(pa.array(np.isin(rows["ordinal"].to_numpy(), chosen))) for rows in manifest.rows()]
    sample = pa.concat_tables(picked).drop_columns(["pending"])
    blocks = split(sample, max(1, -(-sample.num_rows // _BLOCKS)), block_bytes)
    say(f"timing {sample.num_rows} of them")
    return listing | _predicted(_timed(blocks, sink, receipts), manifest.pending, stages)


def _timed(blocks: list[pa.Table], sink: str, receipts: Receipts) -> list[tuple[float, dict[str, Any]]]:
    """Process the sample. Returns the seconds since the start and the receipt of each part; deletes the parts."""
    scratch = storage.join(sink, f"dry-run-{secrets.token_hex(4)}")
    existed = storage.exists(sink)
    started = time.monotonic()
    try:
        return [(time.monotonic() - started, receipt) for receipt in receipts(blocks, scratch)]
    finally:
        if storage.is_local(sink):
            shutil.rmtree(scratch, ignore_errors=True)
            if not existed:
                with contextlib.suppress(OSError):  # a run has begun there meanwhile
                    Path(storage.canonical(sink)).rmdir()
        else:
            storage.delete_all(uri for page in storage.walk(scratch) for uri in page["uri"].to_pylist())


def _predicted(timed: list[tuple[float, dict[str, Any]]], pending: int, stages: tuple[str, ...]) -> dict[str, Any]:
    rows = np.array([receipt["rows"] for _, receipt in timed])
    busy = np.array([sum(receipt[f"{stage}_s"] for stage in stages) for _, receipt in timed])
    arrived = np.array([seconds for seconds, _ in timed])
    start_up = max(0.0, float(arrived[0] - busy[0]))
    per_row = float((arrived[-1] - start_up) / rows.sum())
    # Range of the sample's mean if other inputs had been drawn (bootstrap: Efron 1979).
    draws = np.random.default_rng(0).integers(0, len(rows), (1000, len(rows)))
    spread = np.quantile(busy[draws].sum(1) / rows[draws].sum(1), [0.05, 0.95]) / (busy.sum() / rows.sum())
    seconds = start_up + pending * per_row
    low, high = (
        start_up + pending * per_row * factor for factor in (spread[0] / _SHORT_SAMPLE, spread[1] * _SHORT_SAMPLE)
    )
    failed = sum(len(receipt["failed"]) for _, receipt in timed)
    assumed = [
        "the cluster has the workers that it has now",
        f"the other inputs are like the sample, of which {failed} failed",
        f"the range holds 90 % of redrawn samples, and {_SHORT_SAMPLE:g} times more or less for what is not in it",
    ]
    busy_by_stage = {stage: round(sum(receipt[f"{stage}_s"] for _, receipt in timed), 3) for stage in stages}
    return {
        "sample": int(rows.sum()),
        "sample_failed": failed,
        "stage_seconds": busy_by_stage,
        "inputs_per_second": round(1 / per_row, 3),
        "predicted_seconds": round(seconds, 1),
        "predicted_range": [round(low, 1), round(high, 1)],
        "assumed": assumed,
    }
