"""Source on local disk: globs, tar archives, Parquet files that hold bytes, wrong ones of each."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch

KIND = InputKind(suffixes=(".jpg", ".png", ".tar", ".parquet"))


def listed(*sources: Path | str, kind: InputKind = KIND) -> pa.Table:
    return pa.concat_tables(list(entries([str(source) for source in sources], kind)))


def tree(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def tar_of(files: list[tuple[str, bytes]]) -> bytes:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        for name, data in files:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["a1.jpg", "a2.jpg", "b!.jpg", "b^.jpg", "c].jpg"]),
        ("a?.jpg", ["a1.jpg", "a2.jpg"]),
        ("a[12].*", ["a1.jpg", "a2.jpg", "a2.txt"]),
        ("a[!1].jpg", ["a2.jpg"]),
        ("a[0-9].jpg", ["a1.jpg", "a2.jpg"]),
        ("b[a!].jpg", ["b!.jpg"]),
        ("b[^a].jpg", ["b^.jpg"]),
        ("c[]].jpg", ["c].jpg"]),
        ("d[!x]e.jpg", []),
        ("d/*.jpg", ["d/e.jpg"]),
        ("**/*.jpg", ["a1.jpg", "a2.jpg", "b!.jpg", "b^.jpg", "c].jpg", "d/e.jpg", "d/f/g.jpg"]),
        ("d/**", ["d/e.jpg", "d/f/g.jpg"]),
        ("*/f/*", ["d/f/g.jpg"]),
        ("d/f[[]x/*", []),
        ("z*", []),
    ],
)
def test_a_glob_names_what_matches(tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    tree(tmp_path, ["a1.jpg", "a2.jpg", "a2.txt", "b!.jpg", "b^.jpg", "c].jpg", "d/e.jpg", "d/f/g.jpg"])
    if not wanted:
        with pytest.raises(RequestError, match=r"nothing matches|no such folder"):
            listed(tmp_path / pattern)
        return
    assert listed(tmp_path / pattern)["uri"].to_pylist() == [str(tmp_path / name) for name in wanted]


def test_a_name_with_brackets_is_that_file(tmp_path: Path) -> None:
    tree(tmp_path, ["photo [1].jpg", "photo 1.jpg"])
    assert listed(tmp_path / "photo [1].jpg")["uri"].to_pylist() == [str(tmp_path / "photo [1].jpg")]
    with pytest.raises(RequestError, match="not a glob"):
        listed(tmp_path / "photo [z-a].jpg")


def test_several_sources_come_one_after_the_other(tmp_path: Path) -> None:
    tree(tmp_path, ["a/1.jpg", "b/2.jpg", "c/3.jpg", "c/4.txt"])
    rows = listed(tmp_path / "b", tmp_path / "c" / "*.jpg", tmp_path / "a" / "1.jpg")
    assert rows["uri"].to_pylist() == [str(tmp_path / name) for name in ["b/2.jpg", "c/3.jpg", "a/1.jpg"]]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.zst"])
def test_files_of_a_tar_are_inputs(tmp_path: Path, name: str) -> None:
    files = [
        ("a/1.jpg", b"one"),
        ("readme.txt", b"no"),
        ("a/empty.png", b""),
        ("2 ü\n.PNG", b"two" * 1000),
        ("x.tar", b""),
    ]
    files += [("big.jpg", b"b" * 5000), ("a/1.jpg", b"one again")]
    plain = tar_of(files)
    pack = {"tar": bytes, "gz": gzip.compress, "tgz": gzip.compress, "zst": zstandard.compress}[name.rpartition(".")[2]]
    (tmp_path / name).write_bytes(pack(plain))
    rows = listed(tmp_path, kind=InputKind(suffixes=(*KIND.suffixes, ".tgz")))
    assert rows["member"].to_pylist() == ["a/1.jpg", "a/empty.png", "2 ü\n.PNG", "big.jpg"]
    assert rows["size"].to_pylist() == [9, 0, 3000, 5000]
    for order in ([0, 1, 2, 3], [3, 1, 0], [2]):
        data, errors = fetch(rows.take(order), KIND, FetchConfig(max_bytes=4000, threads=2))
        wanted = [b"one again", b"", b"two" * 1000, None]
        assert data == [wanted[number] for number in order]
        codes = [error and error["code"] for error in errors.to_pylist()]
        assert codes == ["too_large" if number == 3 else None for number in order]


def test_a_tar_that_changed_or_is_cut(tmp_path: Path) -> None:
    plain = tar_of([(f"{number}.jpg", b"x" * 700) for number in range(20)])
    for name, pack in [("a.tar", bytes), ("b.tar.gz", gzip.compress)]:
        (tmp_path / name).write_bytes(pack(plain))
        rows = listed(tmp_path / name)
        assert rows.num_rows == 20
        (tmp_path / name).write_bytes(pack(plain + bytes(512)))
        data, errors = fetch(rows, KIND, FetchConfig())
        assert data == [None] * 20
        assert {error["code"] for error in errors.to_pylist()} == {"changed"}
        (tmp_path / name).unlink()
        assert {error["code"] for error in fetch(rows, KIND, FetchConfig())[1].to_pylist()} == {"not_found"}
        (tmp_path / name).write_bytes(pack(plain)[: len(pack(plain)) // 2])
        rows = listed(tmp_path / name)
        assert [error["code"] for error in fetch(rows, KIND, FetchConfig())[1].to_pylist() if error] == ["bad_archive"]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("column", ["bytes", "image", "data", "content", "large", "struct"])
def test_bytes_of_a_parquet_file_are_inputs(tmp_path: Path, column: str) -> None:
    values = [b"one", None, b"", b"four" * 100]
    if column == "struct":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array([value if value is None else {"bytes": value} for value in values], kind)})
    elif column == "large":
        table = pa.table({"image": pa.array(values, pa.large_binary())})
    else:
        table = pa.table({column: pa.array(values, pa.binary())})
    pq.write_table(table.append_column("label", pa.array(range(4))), tmp_path / "x.parquet", row_group_size=2)
    rows = listed(tmp_path)
    assert rows["member"].to_pylist() == ["1", "2", "3", "4"]
    assert set(rows["format"].to_pylist()) == {"object"}
    for order in ([0, 1, 2, 3], [3, 0]):
        data, errors = fetch(rows.take(order), KIND, FetchConfig())
        assert data == [values[number] for number in order]
        codes = [error and error["code"] for error in errors.to_pylist()]
        assert codes == ["empty" if number == 1 else None for number in order]


def test_an_embedded_image_without_bytes_is_no_container_of_inputs(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "x.parquet")
    rows = listed(tmp_path)
    assert rows["error"].to_pylist()[0]["code"] == "bad_archive"


def test_a_manifest_is_believed_or_looked_at(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"picture")
    uri = str(tmp_path / "x.jpg")
    lines = [{"uri": uri, "etag": "other", "size": 7}, {"uri": "a\0b.jpg", "etag": "other", "size": 7}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = listed(tmp_path / "list.jsonl")
    assert rows["etag"].to_pylist() == ["other", "other"]
    assert [error["code"] for error in fetch(rows, KIND, FetchConfig())[1].to_pylist()] == ["changed", "unreadable"]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"uri": line["uri"]}) + "\n" for line in lines))
    data, errors = fetch(listed(tmp_path / "list.jsonl"), KIND, FetchConfig())
    assert data == [b"picture", None]
    assert errors.to_pylist()[1]["code"] == "unreadable"
