"""Inputs that are gone: what runs of the same sources have listed, what has rows, and what is listed now."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.rows import OBJECT
from pipeline.runs.earlier import newest_first
from pipeline.runs.gone import NAMES, gone_inputs, read_gone, store_gone
from pipeline.runs.life import store_json
from pipeline.source.entries import ENTRIES
from pipeline.source.keys import INPUT_KEY, KeySet, keys
from pipeline.table.manifest import Manifest

Inputs = list[tuple[str, str | None]]


def key_set(inputs: Inputs) -> KeySet:
    names = [{"uri": uri, "member": member} for uri, member in inputs]
    return KeySet([keys(pa.Table.from_pylist(names, NAMES), INPUT_KEY)])


def listing(sink: Path, run: str, inputs: Inputs, *, source: str = "/inbox", is_killed: bool = False) -> Path:
    """The folder of a run that has listed inputs."""
    folder = sink / "runs" / run
    rows = [{"uri": uri, "member": member, "etag": "1", "format": OBJECT} for uri, member in inputs]
    Manifest(str(folder / "manifest")).write([pa.Table.from_pylist(rows, ENTRIES)], KeySet(), None)
    store_json(str(folder / "config.json"), {"source": [source]})
    if not is_killed:
        store_json(str(folder / "summary.json"), {"source": [source], "exit_code": 0})
    return folder


def gone(sink: Path, listed: Inputs, held: Inputs) -> Inputs:
    found = gone_inputs(key_set(listed), key_set(held), ["/inbox"], newest_first(str(sink)))
    return [(row["uri"], row["member"]) for row in found.to_pylist()]


A, B, C, D = (("/inbox/" + name, None) for name in "abcd")


def test_what_was_listed_and_is_not_any_more(tmp_path: Path) -> None:
    listing(tmp_path, "1", [A, B, C])
    listing(tmp_path, "2", [("/other/x", None)], source="/other")
    listing(tmp_path, "3", [B, D], is_killed=True)
    assert gone(tmp_path, [A], [A, B, C, D, ("/other/x", None)]) == [B, C, D]
    assert gone(tmp_path, [A], [A, C]) == [C], "those without a row are no matter"
    assert gone(tmp_path, [A, B, C, D], [A, B, C, D]) == []
    assert gone(tmp_path / "none", [], [A]) == []


def test_what_a_run_has_found_stands_for_all_before_it(tmp_path: Path) -> None:
    listing(tmp_path, "1", [A, B, C])
    folder = listing(tmp_path, "2", [A, B])
    assert read_gone(str(folder)) is None
    store_gone(str(folder), gone_inputs(key_set([A, B]), key_set([A, B, C]), ["/inbox"], newest_first(str(tmp_path))))
    (tmp_path / "runs" / "1" / "manifest" / "00000.parquet").write_bytes(b"nobody reads this any more")
    listing(tmp_path, "3", [A, D])
    assert gone(tmp_path, [A], [A, B, C, D]) == [B, C, D]
    assert gone(tmp_path, [A, C], [A, B, C, D]) == [B, D], "it has come back"


def test_a_container_that_cannot_be_opened_hides_what_is_in_it(tmp_path: Path) -> None:
    members: Inputs = [("/inbox/x.tar", "1.png"), ("/inbox/x.tar", "2.png"), ("/inbox/y.tar", "1.png")]
    listing(tmp_path, "1", members)
    assert gone(tmp_path, [("/inbox/x.tar", None)], members) == [("/inbox/y.tar", "1.png")]
    assert gone(tmp_path, members[:1], members) == members[1:]
    listing(tmp_path, "2", [("/inbox/x.tar", None)])
    assert gone(tmp_path, members, [*members, ("/inbox/x.tar", None)]) == [("/inbox/x.tar", None)], "its error is over"
