"""The same records in JSONL and in Parquet give the same results, whatever their Arrow types; what cannot be read says
which column it is."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, RequestError
from pipeline.images.letterbox import IMAGES
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.source.labelled import all_inputs
from pipeline.text.inputs import parse_record
from pipeline.text.task import TextSegmentation

DOCUMENTS = TextSegmentation.inputs
TEXT = "It rained. It poured.\n\nIt ended."


def read(path: Path, kind: InputKind = DOCUMENTS) -> list[Any]:
    """The parsed record, the bytes, or the code and message of each input of a source."""
    found: list[Any] = []
    for rows in entries([str(path)], kind):
        data, errors = fetch(rows, kind, FetchConfig())
        for item, error, form in zip(data, errors.to_pylist(), rows["format"].to_pylist(), strict=True):
            if item is None:
                found.append((error["code"], error["message"]))
                continue
            try:
                found.append(parse_record(item) if form == "json" else item)
            except InputError as reason:
                found.append((reason.code, reason.message))
    return found


def table_file(folder: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), folder / "x.parquet", **options)
    return folder / "x.parquet"


IDS = {
    "integer": (pa.array([7]), "7"),
    "unsigned": (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
    "float": (pa.array([1.5], pa.float32()), "1.5"),
    "truth value": (pa.array([True]), "true"),
    "decimal": (pa.array([decimal.Decimal("1.50")]), "1.50"),
    "timestamp": (pa.array([datetime.datetime(2026, 1, 2)], pa.timestamp("ms")), "2026-01-02 00:00:00.000"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns", "UTC")), "1970-01-01 00:00:00.000000001Z"),
    "date": (pa.array([datetime.date(2026, 1, 2)]), "2026-01-02"),
    "time": (pa.array([datetime.time(1, 2)], pa.time32("ms")), "01:02:00.000"),
    "uuid": (pa.array([uuid.UUID(int=5).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000005"),
    "text as bytes": (pa.array(["\u00fc7".encode()]), "\u00fc7"),
    "bytes": (pa.array([b"\xff7"]), r"\xff7"),
    "fixed bytes": (pa.array([b"ab"], pa.binary(2)), "ab"),
    "bytes in a view": (pa.array([b"ab"], pa.binary_view()), "ab"),
    "category": (pa.array(["b"]).dictionary_encode(), "b"),
    "category of numbers": (pa.array([5]).dictionary_encode(), "5"),
    "null": (pa.nulls(1), None),
}


@pytest.mark.parametrize("name", list(IDS))
@pytest.mark.parametrize("store_schema", [True, False])
def test_the_text_is_read_whatever_the_type_of_doc_id(tmp_path: Path, name: str, store_schema: bool) -> None:
    ids, wanted = IDS[name]
    found = read(table_file(tmp_path, {"text": [TEXT], "doc_id": ids}, store_schema=store_schema))
    assert found == [{"text": TEXT, "doc_id": wanted, "paragraphs": None}]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([["a"]]), "doc_id is a list"),
        (pa.array([{"a": 1}]), "doc_id is an object"),
        (pa.array([2**62], pa.timestamp("us")), "column 'doc_id' of the type timestamp[us] has no form"),
    ],
)
def test_an_id_that_has_no_text_is_named(tmp_path: Path, ids: pa.Array, message: str) -> None:
    ((code, said),) = read(table_file(tmp_path, {"text": [TEXT], "doc_id": ids}))
    assert code == "bad_record"
    assert message in said


TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "category of large strings": pa.dictionary(pa.int8(), pa.large_string()),
    "bytes": pa.binary(),
    "large bytes": pa.large_binary(),
    "bytes in a view": pa.binary_view(),
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_text_of_any_type_is_read(tmp_path: Path, name: str) -> None:
    is_bytes = "bytes" in name
    values = [TEXT, None, "\u00fc"]
    given_values = [item.encode() if is_bytes and item is not None else item for item in values]
    found = read(table_file(tmp_path, {"text": pa.array(given_values).cast(TEXTS[name])}))
    assert [item["text"] if isinstance(item, dict) else item[0] for item in found] == [TEXT, "bad_record", "\u00fc"]


SPANS = [[0, 21], [23, 32]]
OWN = [{"start": start, "end": end, "score": 0.5} for start, end in SPANS]


@pytest.mark.parametrize(
    "paragraphs",
    [
        pa.array([SPANS], pa.list_(pa.list_(pa.int32()))),
        pa.array([SPANS], pa.large_list(pa.list_(pa.uint8(), 2))),
        pa.array([OWN]),
        pa.array([OWN], TextSegmentation(buckets=2).schema.field("paragraphs").type),
        pa.array([[{"start": start, "end": end} for start, end in SPANS]]),
    ],
)
def test_paragraphs_are_read_in_every_form(tmp_path: Path, paragraphs: pa.Array) -> None:
    wanted = [(0, 21), (23, 32)]
    assert read(table_file(tmp_path, {"text": [TEXT], "paragraphs": paragraphs}))[0]["paragraphs"] == wanted
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": TEXT, "paragraphs": OWN}))
    assert read(tmp_path / "x.jsonl")[0]["paragraphs"] == wanted


def test_paragraphs_of_another_form_say_which_is_wanted(tmp_path: Path) -> None:
    ((code, message),) = read(table_file(tmp_path, {"text": [TEXT], "paragraphs": pa.array([[{"begin": 0}]])}))
    assert (code, message) == ("bad_record", "paragraph 0 is not [start, end], nor has start and end")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [1]}, "column 'text' of the Parquet file has the type int64, not strings"),
        ({"Text": ["a"]}, "has a column 'Text'; its name must be 'text'"),
        ({"body": ["a"]}, "has none of the columns text, bytes, image, data, content"),
        (pa.table([["a"], ["b"]], names=["text", "text"]), "has 2 columns 'text'"),
    ],
)
def test_a_file_without_texts_says_what_it_has(tmp_path: Path, columns: Any, message: str) -> None:
    ((code, said),) = read(table_file(tmp_path, columns))
    assert code == "bad_archive"
    assert message in said


PICTURES = {
    "bytes": pa.binary(),
    "large bytes": pa.large_binary(),
    "bytes in a view": pa.binary_view(),
    "bytes of one size": pa.binary(3),
    "category": pa.dictionary(pa.int32(), pa.binary()),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "struct of views": pa.struct([("path", pa.string()), ("bytes", pa.binary_view())]),
}


@pytest.mark.parametrize("name", list(PICTURES))
def test_pictures_of_any_type_are_read_beside_a_caption(tmp_path: Path, name: str) -> None:
    values = [{"bytes": item} for item in (b"one", b"two")] if "struct" in name else [b"one", b"two"]
    column = pa.array(values).dictionary_encode() if name == "category" else pa.array(values, PICTURES[name])
    path = table_file(tmp_path, {"text": ["a caption", "another"], "image": column})
    assert read(path, IMAGES) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [[b"a", b"b"]]}, "column 'image' of the Parquet file has the type list<element: binary>"),
        ({"image": [{"path": "a.png"}]}, "column 'image' of the Parquet file has the type struct<path: string>"),
        ({"image": ["a.png"]}, "column 'image' of the Parquet file has the type string, not bytes, or a struct"),
        ({"Image": [b"a"]}, "has a column 'Image'; its name must be 'image'"),
        (pa.table([[b"a"], [b"b"]], names=["image", "image"]), "has 2 columns 'image'"),
        ({"image": pa.array([{"bytes": None, "path": "a.png"}], PICTURES["struct"])}, "has a path in column 'image'"),
    ],
)
def test_a_file_without_pictures_does_not_deny_its_columns(tmp_path: Path, columns: Any, message: str) -> None:
    ((_, said),) = read(table_file(tmp_path, columns), IMAGES)
    assert message in said.replace("list<item:", "list<element:")


def test_a_manifest_may_have_other_columns(tmp_path: Path) -> None:
    """For images a caption is no input, nor is a name in a column that could hold bytes. For documents, text is."""
    (tmp_path / "a.png").write_bytes(b"found")
    columns = {"uri": [str(tmp_path / "a.png")], "text": ["a caption"], "image": ["a.png"]}
    path = table_file(tmp_path, columns)
    assert read(path, IMAGES) == [b"found"]
    (tmp_path / "x.jsonl").write_text(json.dumps({name: values[0] for name, values in columns.items()}))
    assert read(tmp_path / "x.jsonl", IMAGES) == [b"found"]
    for name in ("x.parquet", "x.jsonl"):
        assert [item["text"] for item in read(tmp_path / name)] == ["a caption"]


def results(folder: Path) -> Path:
    """A part of a table of results, about two lines of a file that has changed since, and one file."""
    (folder / "d.jsonl").write_text(json.dumps({"text": TEXT}) + "\n" + json.dumps({"text": "Two."}) + "\n")
    (folder / "e.txt").write_text("Three.")
    uris = [str(folder / "d.jsonl")] * 2 + [str(folder / "e.txt")]
    columns = {"uri": uris, "member": ["1", "2", None], "etag": ["x"] * 3, "size": [1] * 3}
    columns |= {name: ["y"] * 3 for name in ("settings", "run_id", "error")}
    return table_file(folder, columns)


def test_a_table_of_results_names_its_inputs(tmp_path: Path) -> None:
    found = read(results(tmp_path))
    assert [item["text"] if isinstance(item, dict) else item for item in found] == [TEXT, "Two.", b"Three."]


def test_a_table_of_results_is_no_truth_and_no_container(tmp_path: Path) -> None:
    path = results(tmp_path)
    with pytest.raises(RequestError, match="has no texts, and so is no truth"):
        all_inputs(str(path), DOCUMENTS)
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": str(path)}))
    ((code, message),) = read(tmp_path / "list.jsonl")
    assert (code, "a part of a table of results" in message) == ("bad_archive", True)


def test_a_delta_table_is_not_listed_as_a_folder(tmp_path: Path) -> None:
    results(tmp_path)
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(RequestError, match="is a Delta table"):
        read(tmp_path)


def encodings(records: list[dict[str, Any]]) -> dict[str, bytes]:
    """The same records as files of every kind."""
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    files = {
        "x.jsonl": lines,
        "x.jsonl.gz": gzip.compress(lines),
        "z.jsonl.gz": gzip.compress(lines[:9]) + gzip.compress(lines[9:]),
    }
    texts = [record["text"] for record in records]
    others = {
        "doc_id": pa.array([record["doc_id"] for record in records], pa.string()),
        "paragraphs": pa.array([record["paragraphs"] for record in records], pa.list_(pa.list_(pa.int64()))),
        "split": pa.array([record["split"] for record in records], pa.string()).dictionary_encode(),
    }
    spans = [
        None
        if record["paragraphs"] is None
        else [{"start": a, "end": b, "score": 1.0} for a, b in record["paragraphs"]]
        for record in records
    ]
    own = pa.array(spans, pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("score", pa.float32())])))
    for number, type_ in enumerate(TEXTS.values()):
        values = pa.array([None if item is None else item.encode() for item in texts], pa.binary()).cast(pa.string())
        table = pa.table({"text": values.cast(type_)} | others | ({"paragraphs": own} if number % 2 else {}))
        out = io.BytesIO()
        pq.write_table(table, out, row_group_size=1 + number % 3, compression=["none", "zstd"][number % 2])
        files[f"{number}.parquet"] = out.getvalue()
    return files


TEXT_VALUES = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
RECORDS = st.fixed_dictionaries(
    {
        "text": TEXT_VALUES,
        "doc_id": TEXT_VALUES,
        "paragraphs": st.none() | st.lists(st.lists(st.integers(-1, 9), min_size=2, max_size=2), max_size=2),
        "split": st.none() | st.sampled_from(["train", "test"]),
    }
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_the_same_records_give_the_same_rows_from_every_kind_of_file(tmp_path: Path, records: list[dict]) -> None:
    found = {}
    for name, data in encodings(records).items():
        (tmp_path / name).write_bytes(data)
        found[name] = read(tmp_path / name)
        (tmp_path / name).unlink()
    assert len(found["x.jsonl"]) == len(records)
    for name, rows in found.items():
        assert rows == found["x.jsonl"], name
