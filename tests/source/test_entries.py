"""Source: what is listed, in which order, and what each entry's bytes are."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.entries import CHUNK_ROWS, entries
from pipeline.source.fetch import FetchConfig, fetch

KIND = InputKind(suffixes=(".txt", ".jsonl", ".parquet"), record=("text", "doc_id", "paragraphs"))


def listed(source: Path | str, kind: InputKind = KIND) -> pa.Table:
    return pa.concat_tables(list(entries([str(source)], kind)))


def test_a_folder_lists_what_matches(tmp_path: Path) -> None:
    for name in ["b.TXT", "a.txt", "c.jpg", "d.txt.gz", "sub/e.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = b"hello " + name.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    rows = listed(tmp_path)
    assert rows["uri"].to_pylist() == [str(tmp_path / n) for n in ["a.txt", "b.TXT", "d.txt.gz", "sub/e.txt"]]
    data, errors = fetch(rows, KIND, FetchConfig())
    assert data == [b"hello a.txt", b"hello b.TXT", b"hello d.txt.gz", b"hello sub/e.txt"]
    assert errors.null_count == 4


def test_the_ending_of_a_name_is_handed_on_as_the_format(tmp_path: Path) -> None:
    kind = InputKind(suffixes=(".md", ".html", ".txt", ".tar"), formats=((".md", "markdown"), (".html", "html")))
    for name in ("A.MD", "b.html.gz", "c.txt", "d.md.zst"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "e.tar", "w") as archive:
        for name in ("f.html", "g.txt"):
            archive.addfile(tarfile.TarInfo(name))
    rows = listed(tmp_path, kind)
    names = [Path(row["uri"]).name + (row["member"] or "") for row in rows.to_pylist()]
    assert dict(zip(names, rows["format"].to_pylist(), strict=True)) == {
        "A.MD": "markdown",
        "b.html.gz": "html",
        "c.txt": "object",
        "d.md.zst": "markdown",
        "e.tarf.html": "html",
        "e.targ.txt": "object",
    }


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_lines_of_jsonl_are_members(tmp_path: Path, compression: str) -> None:
    lines = [json.dumps({"text": f"text {i}" * i}).encode() for i in range(50)]
    content = b"\n".join([lines[0], b"", *lines[1:]])
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[compression]
    (tmp_path / f"x.jsonl{compression}").write_bytes(packed)
    rows = listed(tmp_path)
    assert rows["member"].to_pylist() == ["1", *(str(i) for i in range(3, 52))]
    scattered = rows.take([40, 41, 3, 49])
    for part, wanted in [(rows, lines), (scattered, [lines[i] for i in (40, 41, 3, 49)])]:
        data, errors = fetch(part, KIND, FetchConfig(threads=1))
        assert [item.strip() for item in data] == wanted
        assert errors.null_count == len(wanted)


def test_rows_of_parquet_are_members(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two", None], "doc_id": ["a", None, "c"], "other": [1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    rows = listed(tmp_path / "x.parquet")
    data, _ = fetch(rows, KIND, FetchConfig())
    assert [json.loads(item) for item in data] == [{"text": "one", "doc_id": "a"}, {"text": "two"}, {"doc_id": "c"}]


def test_a_broken_container_is_one_failed_input(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing PAR1")
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "c.parquet")
    (tmp_path / "d.txt.gz").write_bytes(b"no gzip")
    rows = listed(tmp_path)
    data, errors = fetch(rows, KIND, FetchConfig())
    codes = {}
    for uri, item, error in zip(rows["uri"].to_pylist(), data, errors.to_pylist(), strict=True):
        if item is None:
            codes[Path(uri).name] = error["code"]
    assert codes == dict.fromkeys(["a.jsonl.gz", "b.parquet", "c.parquet", "d.txt.gz"], "bad_archive")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_manifest_names_inputs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.jpg").write_bytes(b"picture")
    uris = [str(tmp_path / "x.jpg"), str(tmp_path / "gone.jpg"), str(tmp_path / "x.jpg")]
    where = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"uri": uris}), where)
    elif kind == "csv":
        where.write_text("uri,label\n" + "".join(f"{uri},1\n" for uri in uris))
    else:
        where.write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    rows = listed(where, InputKind(suffixes=(".jpg",)))
    assert rows["uri"].to_pylist() == uris
    data, errors = fetch(rows, KIND, FetchConfig())
    assert data == [b"picture", None, b"picture"]
    assert errors.to_pylist()[1]["code"] == "not_found"


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url\nx\n")
    with pytest.raises(RequestError, match="must have a column 'uri', got url"):
        listed(tmp_path / "list.csv")
    with pytest.raises(RequestError, match="no such file or folder"):
        listed(tmp_path / "nothing")


def test_one_bad_input_fails_alone(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * number)
    rows = listed(tmp_path)
    (tmp_path / "2.txt").unlink()
    (tmp_path / "3.txt").write_bytes(b"changed")
    data, errors = fetch(rows, KIND, FetchConfig(max_bytes=4))
    assert data == [b"", b"x", None, None, b"xxxx", None]
    codes = [error and error["code"] for error in errors.to_pylist()]
    assert codes == [None, None, "not_found", "changed", None, "too_large"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_records_of_a_file_that_changed_are_not_cut_from_the_new_one(tmp_path: Path, name: str) -> None:
    def write(texts: list[str]) -> None:
        if name.endswith("parquet"):
            pq.write_table(pa.table({"text": texts}), tmp_path / name)
        else:
            (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    write(["one", "two"])
    rows = listed(tmp_path)
    write(["another", "one", "two"])
    data, errors = fetch(rows, KIND, FetchConfig())
    assert data == [None, None]
    assert [error["code"] for error in errors.to_pylist()] == ["changed", "changed"]


def test_a_broken_line_of_a_manifest_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"uri": "a.jpg"}\n{broken\n')
    with pytest.raises(RequestError, match="line 2: must be a JSON object with a string 'uri'"):
        listed(tmp_path / "list.jsonl", InputKind(suffixes=(".jpg",)))


def test_listing_comes_in_bounded_chunks(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "x"}\n' * (CHUNK_ROWS + 5))
    assert [part.num_rows for part in entries([str(tmp_path)], KIND)] == [CHUNK_ROWS, 5]
