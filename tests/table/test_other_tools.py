"""Other tools on a table: compaction, deletes, vacuum, added columns and restores, between runs and during them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake

from pipeline import storage
from pipeline.errors import JobFailed, RequestError
from pipeline.source.keys import INPUT_KEY, VERSION_KEY, KeySet, keys
from pipeline.table import commits
from pipeline.table.delta import Table
from pipeline.table.lease import LeaseLost
from pipeline.table.mending import mend
from pipeline.table.parts import scan
from pipeline.table.readers import open_delta, parts_of
from pipeline.table.vacuum import vacuum
from tests.table.test_delta import SCHEMA, A, B, add, held, is_outdated, opened, rows, supersede

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    """Four files of two rows each, of one run."""
    table = opened(tmp_path)
    table.fence(1, "1")
    for number in range(4):
        add(table, rows([f"{number}a", f"{number}b"], "1"))
    return tmp_path


def other(sink: Path) -> DeltaTable:
    return DeltaTable(str(sink / "table"))


def next_night(sink: Path) -> Table:
    table = Table(str(sink), SCHEMA)
    table.fence(2, "2")
    return table


def uris(sink: Path) -> list[str]:
    return [row[0] for row in held(sink)]


def rows_of(sink: Path) -> dict[str, str]:
    """The etag of each URI, by this project's own reader of parts; fails if a URI is there twice."""
    pairs = [
        pair
        for _, found in scan(str(sink / "table"), parts_of(str(sink)))
        for pair in zip(found["uri"].to_pylist(), found["etag"].to_pylist(), strict=True)
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def all_uris(sink: Path) -> list[str]:
    """Also those of rows without other values."""
    return open_delta(str(sink)).to_pyarrow_table()["uri"].to_pylist()


class Listed:
    """What a run has listed: the URIs, with etag 1 if none is given."""

    def __init__(self, uris: list[str], etags: dict[str, str]) -> None:
        found = pa.concat_tables([rows([uri], "x", etag=etags.get(uri, "1")) for uri in uris])
        self.inputs, self.versions = KeySet([keys(found, INPUT_KEY)]), KeySet([keys(found, VERSION_KEY)])


EVERYTHING = [f"{number}{letter}" for number in range(4) for letter in "ab"]


def delete_by_vector(sink: Path, row: int) -> None:
    """Delete a row of the newest file as Spark does: by a bitmap in the log, while the file stays as it is."""
    delta = other(sink)
    delta.alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    log = sorted((sink / "table" / "_delta_log").glob("*.json"))
    added = [entry["add"] for file in log for entry in map(json.loads, file.read_text().splitlines()) if "add" in entry]
    # Delta's format: a magic number, how many 32-bit bitmaps, and a Roaring bitmap with one array of 16-bit values.
    bitmap = struct.pack("<IQI", 1681511377, 1, 0) + struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)
    padded = bitmap + bytes(-len(bitmap) % 4)
    numbers = [int.from_bytes(padded[start : start + 4], "big") for start in range(0, len(padded), 4)]
    text = "".join(_Z85[number // 85**power % 85] for number in numbers for power in range(4, -1, -1))
    vector = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(bitmap), "cardinality": 1}
    removed = {name: added[-1][name] for name in ("path", "partitionValues", "size")}
    entries = [
        {"commitInfo": {"timestamp": 1, "operation": "DELETE"}},
        {"remove": removed | {"deletionTimestamp": 1, "dataChange": True, "extendedFileMetadata": True}},
        {"add": added[-1] | {"deletionVector": vector}},
    ]
    file = log[-1].parent / f"{other(sink).version() + 1:020d}.json"
    file.write_text("\n".join(map(json.dumps, entries)))


BETWEEN: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "compact": (lambda sink: other(sink).optimize.compact(), []),
    "z_order": (lambda sink: other(sink).optimize.z_order(["etag"]), []),
    "delete": (lambda sink: other(sink).delete("uri in ('0a', '1b')"), ["0a", "1b"]),
    "delete a file": (lambda sink: other(sink).delete("uri in ('0a', '0b')"), ["0a", "0b"]),
    "delete all": (lambda sink: other(sink).delete(), EVERYTHING),
    "deletion vector": (lambda sink: delete_by_vector(sink, 0), ["3a"]),
    "add a column": (lambda sink: other(sink).alter.add_columns([deltalake.Field("note", "string")]), []),  # type: ignore[arg-type]
    "update": (lambda sink: other(sink).update(updates={"etag": "'1'"}), []),
    "overwrite": (
        lambda sink: write_deltalake(other(sink), pa.table(other(sink).to_pyarrow_table()), mode="overwrite"),
        [],
    ),
    "vacuum": (lambda sink: other(sink).vacuum(0, False, False, full=True), []),
    "checkpoint": (lambda sink: other(sink).create_checkpoint(), []),
    "constraint": (lambda sink: other(sink).alter.add_constraint({"high": "height < 1000"}), []),
    "change data feed": (
        lambda sink: other(sink).alter.set_table_properties({"delta.enableChangeDataFeed": "true"}),
        [],
    ),
}


@pytest.mark.parametrize("operation", BETWEEN)
def test_the_next_run_makes_one_row_for_each_input(sink: Path, operation: str) -> None:
    change, deleted = BETWEEN[operation]
    change(sink)
    table = next_night(sink)
    contents = table.contents(A, "s")
    assert len(contents.sound) == len(EVERYTHING) - len(deleted)
    if deleted:
        add(table, rows(deleted, "2"))
    # Two inputs have changed.
    add(table, rows(["2a", "2b"], "2", etag="2"))
    assert is_outdated(table, EVERYTHING, len(deleted) + 2)
    listed = Listed(EVERYTHING, {"2a": "2", "2b": "2"})
    assert table.supersede(listed.inputs, listed.versions, model=A, settings="s", run_id="2", own_parts=True) == 2
    found = rows_of(sink)
    assert sorted(found) == EVERYTHING
    assert {uri: etag for uri, etag in found.items() if etag == "2"} == {"2a": "2", "2b": "2"}


def test_rows_that_another_tool_appends_are_left_alone(sink: Path) -> None:
    for model in ("a name/with 100%", None):
        foreign = pa.table({"uri": ["theirs"], "model": pa.array([model], pa.string())})
        write_deltalake(other(sink), foreign, mode="append", schema_mode="merge")
    table = next_night(sink)
    assert len(table.contents(A, "s", every_model=True).inputs) == 10
    assert supersede(table, ["0a", "0b"], etag="2") == 2
    assert all_uris(sink).count("theirs") == 2
    assert supersede(table, ["theirs"]) == 2
    assert sorted(all_uris(sink)) == ["1a", "1b", "2a", "2b", "3a", "3b"]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "not partitioned": (lambda sink: rewritten(sink, []), "must be partitioned by 'model'.* by nothing"),
    "partitioned otherwise": (lambda sink: rewritten(sink, ["run_id"]), "must be partitioned by 'model'.* by 'run_id'"),
    "a column left out": (
        lambda sink: rewritten(sink, ["model"], drop=["run_id"]),
        "removed the table's columns run_id",
    ),
    "an unknown feature": (lambda sink: with_feature(sink, "typeWidening"), "typeWidening|cannot be opened"),
}


def rewritten(sink: Path, partition_by: list[str], drop: list[str] = []) -> None:  # noqa: B006
    content = pa.table(other(sink).to_pyarrow_table()).drop_columns(drop)
    write_deltalake(other(sink), content, mode="overwrite", schema_mode="overwrite", partition_by=partition_by)


def with_property(sink: Path, name: str, value: str) -> None:
    other(sink).alter.set_table_properties({name: value})


def with_feature(sink: Path, feature: str) -> None:
    version = other(sink).version() + 1
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [feature], "writerFeatures": [feature]}
    file = sink / "table" / "_delta_log" / f"{version:020d}.json"
    file.write_text(json.dumps({"protocol": protocol}))


@pytest.mark.parametrize("change", REFUSED)
def test_a_layout_that_cannot_be_read_is_refused(sink: Path, change: str) -> None:
    make, message = REFUSED[change]
    make(sink)
    with pytest.raises(RequestError, match=message):
        Table(str(sink), SCHEMA)


@pytest.mark.parametrize("lands", [1, 3])
def test_a_compaction_while_rows_are_superseded_doubles_nothing(
    sink: Path, monkeypatch: pytest.MonkeyPatch, lands: int
) -> None:
    table = next_night(sink)
    add(table, rows(["0a", "1b"], "2", etag="2"))
    real, left = commits.Commits._write, [lands]

    def write(self: commits.Commits, *arguments: object, **settings: object) -> None:
        if left[0]:  # another tool commits just before us
            left[0] -= 1
            add_and_compact()
        real(self, *arguments, **settings)  # type: ignore[arg-type]

    def add_and_compact() -> None:
        if left[0] != lands - 1:  # so that there is something to compact again
            write_deltalake(other(sink), rows(["new"], "9", model=B).select(SCHEMA.names), mode="append")
        other(sink).optimize.compact()

    monkeypatch.setattr(commits.Commits, "_write", write)
    listed = Listed(EVERYTHING, {"0a": "2", "1b": "2"})
    assert table.supersede(listed.inputs, listed.versions, model=A, settings="s", run_id="2", own_parts=True) == 2
    assert [uri for uri in sorted(uris(sink)) if uri != "new"] == EVERYTHING
    assert not left[0]
    assert {str(change).split()[0] for change in table.changes_of_others(0)} == {"OPTIMIZE"} | (
        {"WRITE"} if lands > 1 else set()
    )


def test_a_table_that_never_stands_still_is_given_up_with_a_reason(sink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = next_night(sink)
    real = commits.Commits._write
    monkeypatch.setattr(commits.time, "sleep", lambda _: None)

    def write(self: commits.Commits, *arguments: object, **settings: object) -> None:
        other(sink).alter.set_table_properties({"delta.logRetentionDuration": "interval 7 days"})
        real(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(commits.Commits, "_write", write)
    before = held(sink)
    with pytest.raises(JobFailed, match="other programs have changed the table"):
        supersede(table, ["0a"], etag="2")
    assert held(sink) == before


def test_a_run_that_lost_its_lease_does_not_rewrite_after_reading_the_log_again(sink: Path) -> None:
    table = next_night(sink)
    newer = Table(str(sink), SCHEMA)
    newer.fence(3, "3")
    with pytest.raises(LeaseLost):
        supersede(table, ["0a"], etag="2")


def test_files_of_earlier_versions_are_no_orphans(sink: Path) -> None:
    before = set((sink / "table").rglob("1-*.parquet"))
    table = next_night(sink)
    other(sink).optimize.compact()
    orphan = table.write_part(rows(["orphan"], "1"), "1", A)
    assert Table(str(sink), SCHEMA).remove_orphans(["1"]) == 1
    assert not (sink / "table" / orphan.path).exists()
    assert set((sink / "table").rglob("1-*.parquet")) == before
    assert len(pa.table(DeltaTable(str(sink / "table"), version=5).to_pyarrow_table())) == 8
    assert vacuum(str(sink)) == 0


def test_files_that_are_deleted_before_they_are_committed(sink: Path) -> None:
    table = next_night(sink)
    parts = [table.write_part(rows([f"new{number}"], "2"), "2", A) for number in range(3)]
    (sink / "table" / parts[1].path).unlink()
    table.commit(parts, run_id="2")
    lost = table.lost_parts("2", A)
    assert [part.path for part in lost] == [parts[1].path]
    table.drop(lost, "2")
    left, errors = table.rows_of("2", A)
    assert (len(left), errors) == (2, {})
    assert not table.lost_parts("2", A)


def test_a_file_that_is_gone_is_named_and_mended(sink: Path) -> None:
    victim = parts_of(str(sink))[0]
    (sink / "table" / victim.file).unlink()
    table = next_night(sink)
    with pytest.raises(JobFailed, match="a file that is not there; verify --repair"):
        table.contents(A, "s")
    assert mend(table, "2") == {"missing": 1, "rewritten": 0, "doubled": 0}
    assert len(table.contents(A, "s").inputs) == 6


def test_mending_marks_pictures_again_and_drops_doubles(sink: Path) -> None:
    add(opened(sink), rows(["0a", "x"], "1"))  # a second row of one run
    other(sink).optimize.compact()
    other(sink).update(updates={"etag": "'1'"})
    assert not any("huggingface" in str(pq.read_schema(uri).metadata) for uri in other(sink).file_uris())
    table = next_night(sink)
    assert mend(table, "2") == {"missing": 0, "rewritten": 1, "doubled": 1}
    assert all(b"huggingface" in (pq.read_schema(uri).metadata or {}) for uri in open_delta(str(sink)).file_uris())
    assert sorted(uris(sink)) == [*EVERYTHING, "x"]
    assert {row[3] for row in held(sink)} == {"1"}
    assert mend(table, "2") == {"missing": 0, "rewritten": 0, "doubled": 0}


def test_names_of_runs_follow_commits_without_one(tmp_path: Path) -> None:
    name = "20991231T000000.000000Z-ffff"
    table = opened(tmp_path)
    table.fence(1, name)
    add(table, rows(["a"], name))
    for number in range(3):
        other(tmp_path).alter.set_table_properties({"delta.logRetentionDuration": f"interval {number + 7} days"})
    assert Table(str(tmp_path), SCHEMA).last_run_id() == name
    other(tmp_path).update(updates={"etag": "'1'"})  # the file's name is gone, too
    assert Table(str(tmp_path), SCHEMA).last_run_id() == ""
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "zzz").mkdir()
    assert Table(str(tmp_path), SCHEMA).last_run_id() == name


def test_a_store_that_refuses_access_is_a_wrong_request_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> bool:
        raise PermissionError("no credentials")

    monkeypatch.setattr(storage, "is_folder", refuse)
    with pytest.raises(RequestError, match="the store refuses access"):
        Table("s3://bucket/sink", SCHEMA)


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "a%25b", "a\\b", "[a]", "a^b", "a|b", "tab\tb"])
def test_names_that_the_delta_library_changes_are_refused(tmp_path: Path, name: str) -> None:
    decoy = (
        opened(tmp_path / name.replace("%20", " ").replace("%2F", "/").replace("%25", "%").replace("\\", "/"))
        if ("%" in name or "\\" in name)
        else None
    )
    with pytest.raises(RequestError, match="its name must not contain"):
        Table(str(tmp_path / name), SCHEMA)
    assert not (tmp_path / name).exists()
    assert decoy is None or decoy.version == 0


@pytest.mark.parametrize(
    "name", ["with space", "a#1", "100%", "a%zz", "é", "a?b", "*", "~", "a:b", "a;b&c=d", "{x}", "a+b"]
)
def test_all_other_names_hold_a_table(tmp_path: Path, name: str) -> None:
    sink = tmp_path / name
    add(opened(sink), rows(["a", "b"], "1"))
    assert supersede(opened(sink), ["a"], etag="2") == 1
    assert uris(sink) == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
