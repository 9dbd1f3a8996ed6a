"""Source over ``s3://`` on a real server: globs, manifests, archives, and objects that change or go meanwhile."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from testing.s3.ceph import Endpoint
from testing.s3.fixtures import applied, client
from testing.s3.proxy import Fault, FaultProxy
from tests.source.test_containers import tar_of

pytestmark = pytest.mark.s3

KIND = InputKind(
    suffixes=(".jpg", ".txt", ".jsonl", ".tar", ".tgz", ".parquet"), record=("text", "doc_id", "paragraphs")
)
NAMES = ["a1.jpg", "a2.jpg", "a2.txt", "a [x].jpg", "b!.jpg", "d/e%20ü.jpg", "d/f/g\n.jpg", "d//h.jpg", "n.md", "d/"]
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.fixture
def root(s3_bucket: str) -> Iterator[str]:
    storage.configure(storage.StorageConfig())
    yield f"s3://{s3_bucket}/some/where"
    storage.configure(storage.StorageConfig())


def listed(*sources: str) -> pa.Table:
    return pa.concat_tables(list(entries(sources, KIND)))


def codes(rows: pa.Table) -> list[str | None]:
    return [error and error["code"] for error in fetch(rows, KIND, FetchConfig(deadline_s=10))[1].to_pylist()]


@pytest.fixture
def tree(root: str, s3_endpoint: Endpoint) -> str:
    for name in NAMES:
        storage.write(f"{root}/{name}", name.encode())
    bucket, key = root[len("s3://") :].split("/", 1)
    client(s3_endpoint).put_object(Bucket=bucket, Key=f"{key}/d/", Body=b"")  # as other tools mark a folder
    storage.delete(f"{root}/d")
    return root


def test_a_prefix_lists_what_matches(tree: str) -> None:
    rows = listed(tree)
    wanted = sorted(name for name in NAMES if name not in ("n.md", "d/"))
    assert sorted(rows["uri"].to_pylist()) == [f"{tree}/{name}" for name in wanted]
    data, errors = fetch(rows, KIND, FetchConfig())
    assert [item.decode() for item in data if item] == [uri[len(tree) + 1 :] for uri in rows["uri"].to_pylist()]
    assert errors.null_count == len(wanted)
    assert sorted(listed(f"{tree}/d/")["uri"].to_pylist()) == sorted(f"{tree}/{n}" for n in wanted if n[:2] == "d/")


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["a [x].jpg", "a1.jpg", "a2.jpg", "b!.jpg"]),
        ("a?.*", ["a1.jpg", "a2.jpg", "a2.txt"]),
        ("a[2-9].jpg", ["a2.jpg"]),
        ("a[!1].jpg", ["a2.jpg"]),
        ("[!a]*.jpg", ["b!.jpg"]),
        ("b[!].jpg", None),
        ("b[a!].jpg", ["b!.jpg"]),
        ("a [x].jpg", ["a [x].jpg"]),
        ("d/*.jpg", ["d/e%20ü.jpg"]),
        ("d/**", ["d//h.jpg", "d/e%20ü.jpg", "d/f/g\n.jpg"]),
        ("**/*.jpg", ["a [x].jpg", "a1.jpg", "a2.jpg", "b!.jpg", "d//h.jpg", "d/e%20ü.jpg", "d/f/g\n.jpg"]),
        ("d/?/*", ["d/f/g\n.jpg"]),
        ("*.png", None),
        ("none/*.jpg", None),
    ],
)
def test_a_glob_names_what_matches(tree: str, pattern: str, wanted: list[str] | None) -> None:
    if wanted is None:
        with pytest.raises(RequestError, match=r"nothing matches|no such folder|not a glob"):
            listed(f"{tree}/{pattern}")
        return
    rows = listed(f"{tree}/{pattern}")
    assert sorted(rows["uri"].to_pylist()) == sorted(f"{tree}/{name}" for name in wanted)
    assert codes(rows) == [None] * len(wanted)


def test_sources_that_are_wrong_or_several(tree: str) -> None:
    rows = listed(f"{tree}/a2.jpg", f"{tree}/d", f"{tree}/a?.jpg")
    assert rows["uri"].to_pylist()[0] == f"{tree}/a2.jpg"
    assert rows.num_rows == 6
    bucket = tree.split("/")[2]
    for source, says in [
        (f"{tree}/nothing", "no such file or folder"),
        (f"s3://{bucket}-none/x", "no such file or folder"),
        ("s3://*/x", "must name its bucket"),
        (f"s3://{bucket}-none/*.jpg", "no such folder"),
    ]:
        with pytest.raises(RequestError, match=says):
            listed(source)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("believed", [False, True])
def test_a_manifest_names_inputs(tree: str, tmp_path: Path, kind: str, believed: bool) -> None:
    names = ["a1.jpg", "a2.jpg", "d/e%20ü.jpg", "gone.jpg"]
    (tmp_path / "local.jpg").write_bytes(b"local")
    seen = [storage.stat(f"{tree}/{name}") for name in names[:3]]
    table = {"uri": [*(item.uri for item in seen), f"{tree}/gone.jpg", str(tmp_path / "local.jpg")], "label": [1] * 5}
    if believed:
        here = storage.stat(str(tmp_path / "local.jpg"))
        table["etag"] = [seen[0].etag, "0" * 31 + "f", seen[2].etag, "gone", here.etag]
        table["size"] = [*(item.size for item in seen), 5, 5]
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.table(table), out)
    elif kind == "csv":
        pyarrow.csv.write_csv(pa.table(table), out)
    else:
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        out.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    storage.write(f"{tree}/list.{kind}", out.getvalue())
    found = listed(f"{tree}/list.{kind}")
    assert found["uri"].to_pylist() == table["uri"]
    assert codes(found) == [None, "changed" if believed else None, None, "not_found", None]


@pytest.mark.parametrize("compression", list(PACK))
def test_files_of_a_tar_are_inputs(root: str, compression: str) -> None:
    files = [(f"{number:03d} ü.jpg", bytes([number]) * number * 10) for number in range(60)] + [("x.md", b"no")]
    uri = f"{root}/x.tar{compression}"
    storage.write(uri, PACK[compression](tar_of(files)))
    rows = listed(root)
    assert rows["member"].to_pylist() == [name for name, _ in files[:-1]]
    data, errors = fetch(rows, KIND, FetchConfig(max_bytes=500))
    assert data == [body if len(body) <= 500 else None for _, body in files[:-1]]
    assert {error["code"] for error in errors.to_pylist() if error} == {"too_large"}
    storage.write(uri, PACK[compression](tar_of(files[::-1])))
    assert codes(rows.slice(3, 4)) == ["changed"] * 4
    storage.delete(uri)
    assert codes(rows.slice(3, 4)) == ["not_found"] * 4


@pytest.mark.parametrize("kind", ["bytes", "struct", "text"])
def test_rows_of_parquet_are_inputs(root: str, kind: str) -> None:
    texts = [f"row {number}" for number in range(50)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "bytes": ("bytes", pa.array([text.encode() for text in texts])),
        "struct": ("image", pa.array([{"bytes": text.encode(), "path": "x"} for text in texts], struct)),
        "text": ("text", pa.array(texts)),
    }
    name, values = columns[kind]

    def write(count: int) -> None:
        pq.write_table(pa.table({name: values.slice(0, count)}), out := io.BytesIO(), row_group_size=7)
        storage.write(f"{root}/x.parquet", out.getvalue())

    write(50)
    rows = listed(root)
    assert rows.num_rows == 50
    data, errors = fetch(rows.take([40, 3, 4, 41]), KIND, FetchConfig())
    plain = [json.loads(item)["text"] if kind == "text" else item.decode() for item in data if item is not None]
    assert plain == [texts[number] for number in (40, 3, 4, 41)]
    assert errors.null_count == 4
    write(49)
    assert set(codes(rows)) == {"changed"}
    storage.delete(f"{root}/x.parquet")
    assert set(codes(rows)) == {"not_found"}


@pytest.mark.parametrize("compression", list(PACK))
def test_lines_of_jsonl_are_inputs(root: str, compression: str) -> None:
    lines = [json.dumps({"text": f"line {number} ü"}).encode() + b"\n" for number in range(3000)]
    uri = f"{root}/x.jsonl{compression}"
    storage.write(uri, PACK[compression](b"".join(lines)))
    rows = listed(uri)
    assert rows.num_rows == 3000
    assert fetch(rows.take([2999, 0, 7]), KIND, FetchConfig())[0] == [lines[number] for number in (2999, 0, 7)]
    storage.write(uri, PACK[compression](b"".join(lines[1:])))
    assert codes(rows.slice(0, 3)) == ["changed"] * 3
    storage.delete(uri)
    assert codes(rows.slice(0, 3)) == ["not_found"] * 3


def test_an_object_that_changed_or_went_fails_alone(tree: str) -> None:
    rows = listed(f"{tree}/a*.jpg").sort_by("uri")
    assert rows["uri"].to_pylist() == [f"{tree}/{name}" for name in ("a [x].jpg", "a1.jpg", "a2.jpg")]
    storage.write(f"{tree}/a1.jpg", b"other")
    storage.delete(f"{tree}/a [x].jpg")
    assert codes(rows) == ["not_found", "changed", None]


@pytest.mark.slow
@pytest.mark.heavy
def test_containers_through_faults(root: str, s3_endpoint: Endpoint) -> None:
    bodies = [bytes([number]) * 50_000 for number in range(40)]
    storage.write(f"{root}/x.tar", tar_of([(f"{number:02d}.jpg", body) for number, body in enumerate(bodies)]))
    faults = [Fault(kind=kind, rate=0.1, times=5) for kind in ("reset", "truncate", "throttle", "server_error")]
    with FaultProxy(s3_endpoint, faults) as proxy, applied(proxy.endpoint):
        storage.configure(storage.StorageConfig())
        rows = listed(root)
        data, errors = fetch(rows, KIND, FetchConfig())
        assert data == bodies
        assert errors.null_count == 40
        assert sum(proxy.counts()["faults"].values()) > 2
        # A store that goes away while a container is listed: one failed input, no broken run.
        proxy.set_faults([Fault(kind="truncate", methods=("GET",), prefix=f"/{root[5:]}")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.storage.s3._PATIENCE_S", 2.0)
            rows = listed(root)
        assert rows["error"].to_pylist()[0]["code"] == "timeout"


def test_a_container_that_is_replaced_while_it_is_listed_is_one_failed_input(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{root}/x.jsonl"
    storage.write(uri, b'{"text": "x"}\n' * 200_000)  # more than one buffer
    page = entries([uri], KIND)
    assert next(page).num_rows
    storage.write(uri, b'{"text": "other"}\n' * 200_000)
    rest = pa.concat_tables(list(page))
    assert rest["error"].to_pylist()[-1]["code"] == "changed"
