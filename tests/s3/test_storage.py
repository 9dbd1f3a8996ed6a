"""Storage on real S3 servers: hostile keys, listings split over threads, races, cut answers, typed errors."""

from __future__ import annotations

import io
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import InputError, RequestError
from pipeline.storage import listing, s3
from testing.s3.ceph import Endpoint
from testing.s3.fixtures import applied, bucket, client
from testing.s3.proxy import Fault, FaultProxy

pytestmark = pytest.mark.s3

BODY = bytes(range(256)) * 160  # 40 KB
LARGE = random.Random(0).randbytes(70_000_000)
STALLED_S = 15  # well above every deadline here, which are 2 and 3 s, and a quarter of the time the store stalls
KEYS = [
    *("plain", "a b", " before", "after ", "a%20b%", "%", "%2F", "a%2Fb", "ü/日本", "e\u0301", "\xe9", "\U0001f600"),
    *("new\nline", "tab\there", "c\x01\x7f", "nb\xa0sp", "zw\u200bsp", "\ufffd", "a//b", "/slash", "//two", "end//x"),
    *("./dot", "a/../b", "a/./b", "..", ".", "dir/.hidden", "end.", "?#+*[x]{}", "a=b&c=d", "a'\"<>&;", "x~^`|"),
    *("back\\slash", "q/ /r", "deep/er/and/deep/er/x.jpg", "x" * 200, "-", "0", "A", "a"),
]


@pytest.fixture
def b(s3_bucket: str) -> Iterator[str]:
    """A bucket, and clients for its server that nobody has used before."""
    storage.configure(storage.StorageConfig())
    yield s3_bucket
    storage.configure(storage.StorageConfig())


@pytest.fixture
def through(s3_endpoint: Endpoint, b: str, tmp_path: Path) -> Iterator[Callable[..., FaultProxy]]:
    """Puts a proxy with faults before the server of the environment, until the test ends."""
    opened: list[Any] = []

    def open_proxy(*faults: Fault, seed: int = 0) -> FaultProxy:
        proxy = FaultProxy(s3_endpoint, faults, seed=seed, log=tmp_path / f"{len(opened)}.log")
        opened.append(proxy.__enter__())
        opened.append(applied(proxy.endpoint))
        opened[-1].__enter__()
        storage.configure(storage.StorageConfig())
        return proxy

    yield open_proxy
    for item in reversed(opened):
        item.__exit__(None, None, None)


def uris(folder: str, begins: str = "") -> list[str]:
    return [uri for page in storage.walk(folder, begins) for uri in page["uri"].to_pylist()]


def fill(endpoint: Endpoint, name: str, keys: list[str], body: bytes = b"x") -> None:
    s3_client = client(endpoint)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3_client.put_object(Bucket=name, Key=key, Body=body), keys))


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.code


def wait_for_listers() -> None:
    """Until no thread of a listing is left."""
    end = time.monotonic() + 5
    while any(thread.name == "list" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread of the listing stays"
        time.sleep(0.02)


def test_keys_and_bytes_are_exact(s3_endpoint: Endpoint, b: str) -> None:
    for key in KEYS:
        storage.write(f"s3://{b}/{key}", b"of " + key.encode())
    found = client(s3_endpoint).list_objects_v2(Bucket=b)["Contents"]
    assert {item["Key"] for item in found} == set(KEYS)
    tags = {item["Key"]: item["ETag"].strip('"') for item in found}
    for key in KEYS:
        uri, body = f"s3://{b}/{key}", b"of " + key.encode()
        seen = storage.stat(uri)
        assert (seen.uri, seen.size, seen.etag) == (uri, len(body), tags[key])
        assert seen.mtime is not None
        assert storage.exists(uri)
        assert storage.read(uri) == body
        assert storage.fetch(uri, storage.Read(etag=seen.etag, max_bytes=1000)) == body
        assert storage.fetch(uri, storage.Read(etag=seen.etag, max_bytes=1000, start=1, end=4)) == body[1:4]
        assert storage.fetch(uri, storage.Read(etag=seen.etag, max_bytes=1000, start=3, end=3)) == b""
        assert storage.open_file(uri).read() == body
        assert not storage.create(uri, b"other")
    rows = [row for page in storage.walk(f"s3://{b}") for row in page.to_pylist()]
    assert {row["uri"]: (row["etag"], row["size"]) for row in rows} == {
        f"s3://{b}/{key}": (tags[key], len(key.encode()) + 3) for key in KEYS
    }
    assert len(rows) == len(KEYS)
    assert all(page.schema == storage.LISTING for page in storage.walk(f"s3://{b}"))
    for folder in ("a", "q", "ü", "a/..", "end", "deep/er"):
        inside = [key[len(folder) + 1 :] for key in KEYS if key.startswith(folder + "/")]
        assert sorted(uris(f"s3://{b}/{folder}")) == sorted(f"s3://{b}/{folder}/{key}" for key in inside)
        assert storage.names(f"s3://{b}/{folder}") == sorted({key.split("/")[0] for key in inside} - {""})
        assert storage.is_folder(f"s3://{b}/{folder}")
    assert storage.names(f"s3://{b}") == sorted({key.split("/")[0] for key in KEYS} - {""})
    for begins in ("a", "/", "//", "ü", "new\n", ".", "a/", "A", "%", "\ufffd", "\x01", "nothing"):
        assert sorted(uris(f"s3://{b}", begins)) == sorted(f"s3://{b}/{k}" for k in KEYS if k.startswith(begins))
    for key in KEYS:
        storage.delete(f"s3://{b}/{key}")
    assert uris(f"s3://{b}") == []


def test_the_mark_of_a_folder_is_no_other_object(s3_endpoint: Endpoint, b: str) -> None:
    fill(s3_endpoint, b, ["d/", "d/sub/", "d/x.jpg/", "only/"], b"")
    fill(s3_endpoint, b, ["d/x.jpg", "d/sub/y.jpg"], b"picture")
    inside = ["sub/", "sub/y.jpg", "x.jpg", "x.jpg/"]
    assert sorted(uris(f"s3://{b}/d")) == [f"s3://{b}/d/{key}" for key in inside]
    assert sorted(uris(f"s3://{b}")) == [f"s3://{b}/{key}" for key in ["d/", *(f"d/{k}" for k in inside), "only/"]]
    assert uris(f"s3://{b}/only") == []
    assert storage.fetch(f"s3://{b}/d/x.jpg", storage.Read(max_bytes=100)) == b"picture"
    assert storage.fetch(f"s3://{b}/d/x.jpg/", storage.Read(max_bytes=100)) == b""
    assert storage.names(f"s3://{b}/d/") == ["sub", "x.jpg"]


def many(kind: str) -> list[str]:
    draw = random.Random(1)
    if kind == "flat":
        return sorted({f"{draw.getrandbits(64):016x}.jpg" for _ in range(3300)})
    if kind == "numbers":
        return [f"{number:012d}.jpg" for number in range(3300)]
    if kind == "deep":
        return [f"2024/{i % 3}/{i % 7}/a/long/way/down/{i % 2}/{i:06d}" for i in range(3300)]
    hostile = [
        "n/01500//x",
        "n/01500/./x",
        "n/01500\n",
        "n/01500\U0010ffff",
        "n/01500\U0010ffff\U0010ffffx",
        "n/\ue000",
    ]
    return [f"n/{number:05d}" for number in range(3200)] + hostile


@pytest.mark.parametrize("kind", ["flat", "numbers", "deep", "hostile"])
def test_a_split_listing_has_each_key_once(
    s3_endpoint: Endpoint, b: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys = many(kind)
    fill(s3_endpoint, b, [f"p/{key}" for key in keys])
    fill(s3_endpoint, b, ["o", "p", "p.x", "p0", "q/1"])
    monkeypatch.setattr(listing, "_PAGES_BEFORE_SPLIT", 1)
    given: list[str] = []
    first_after = s3.S3.first_after

    def spy(self: s3.S3, bucket: str, prefix: str, after: str) -> pa.Table:
        found = first_after(self, bucket, prefix, after)
        given.extend(found["key"].to_pylist())
        return found

    monkeypatch.setattr(s3.S3, "first_after", spy)
    assert sorted(uris(f"s3://{b}/p")) == sorted(f"s3://{b}/p/{key}" for key in keys)
    assert given or kind == "numbers"
    begins = {
        "flat": ["0", "f", "a0"],
        "numbers": ["000000001", "0", "000000003299.jpg", "1"],
        "deep": ["2024/1/", "2024/2/6/a/long", "2024/3"],
        "hostile": ["n/01500", "n/01500\U0010ffff", "n/\ue000", "n/015", "n", "n/0150"],
    }
    for text in begins[kind]:
        wanted = sorted(f"s3://{b}/p/{key}" for key in keys if key.startswith(text))
        assert sorted(uris(f"s3://{b}/p", text)) == wanted
    assert sorted(uris(f"s3://{b}", "p")) == sorted(
        f"s3://{b}/{key}" for key in ["p", "p.x", "p0", *(f"p/{key}" for key in keys)]
    )
    walk = storage.walk(f"s3://{b}/p")
    assert next(walk).num_rows
    walk.close()  # type: ignore[attr-defined]
    wait_for_listers()


def test_a_listing_survives_faults(
    s3_endpoint: Endpoint, b: str, through: Callable[..., FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = many("deep")
    fill(s3_endpoint, b, keys)
    monkeypatch.setattr(listing, "_PAGES_BEFORE_SPLIT", 1)
    kinds = ("reset", "truncate", "server_error", "throttle")
    proxy = through(*(Fault(kind=kind, rate=0.15, times=2) for kind in kinds))
    for _ in range(3):
        assert sorted(uris(f"s3://{b}")) == sorted(f"s3://{b}/{key}" for key in keys)
    assert sum(proxy.counts()["faults"].values()) >= 3
    wait_for_listers()


def test_a_failed_listing_leaves_no_thread(b: str) -> None:
    with pytest.raises(FileNotFoundError):
        list(storage.walk(f"s3://{b}-none/folder"))
    wait_for_listers()


def test_of_many_that_create_one_wins(b: str) -> None:
    for attempt in range(5):
        uri = f"s3://{b}/lease {attempt}"
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda n, uri=uri: storage.create(uri, b"%d" % n), range(16)))
        assert results.count(True) == 1
        assert storage.read(uri) == b"%d" % results.index(True)


@pytest.mark.parametrize("kind", ["reset", "truncate", "server_error"])
def test_the_winner_knows_it_though_answers_are_lost(b: str, through: Callable[..., FaultProxy], kind: str) -> None:
    proxy = through(Fault(kind=kind, rate=0.5, methods=("PUT",)), Fault(kind="throttle", rate=0.2), seed=5)
    for attempt in range(2):
        uri = f"s3://{b}/{kind}{attempt}"
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n, uri=uri: storage.create(uri, b"%d" % n), range(8)))
        assert results.count(True) == 1
        assert storage.read(uri) == b"%d" % results.index(True)
    assert proxy.counts()["faults"][kind] > 2


def test_large_objects_arrive_whole_through_cuts(b: str, through: Callable[..., FaultProxy]) -> None:
    uri = f"s3://{b}/large"
    storage.write(uri, LARGE)
    found = storage.stat(uri)
    assert found.size == len(LARGE)
    proxy = through(
        Fault(kind="reset", methods=("GET",), rate=0.4, times=2),
        Fault(kind="truncate", methods=("GET",), rate=0.4, times=2),
    )
    assert storage.fetch(uri, storage.Read(etag=found.etag, max_bytes=len(LARGE))) == LARGE
    assert storage.read(uri) == LARGE
    proxy.set_faults([Fault(kind="reset", methods=("GET",), times=1)])
    assert (
        storage.fetch(uri, storage.Read(etag=found.etag, max_bytes=len(LARGE), start=1_000_000, end=66_000_001))
        == LARGE[1_000_000:66_000_001]
    )
    with storage.open_file(uri) as file:
        file.seek(10)
        assert file.read(40_000_000) == LARGE[10:40_000_010]
    assert max(entry["bytes"] for entry in proxy.requests() if entry["status"] == 206) <= 32 << 20
    storage.write(uri, b"small")
    assert code_of(lambda: storage.fetch(uri, storage.Read(etag=found.etag, max_bytes=len(LARGE)))) == "changed"


def test_what_is_too_large_is_not_read(b: str, through: Callable[..., FaultProxy]) -> None:
    storage.write(f"s3://{b}/large", LARGE)
    storage.write(f"s3://{b}/large\n", LARGE)
    proxy = through()
    for key in ("large", "large\n"):
        for limit in (1000, len(LARGE) - 1):
            assert (
                code_of(lambda u=f"s3://{b}/{key}", m=limit: storage.fetch(u, storage.Read(max_bytes=m))) == "too_large"
            )
        assert (
            code_of(lambda u=f"s3://{b}/{key}": storage.fetch(u, storage.Read(max_bytes=9, start=100, end=110)))
            == "too_large"
        )
    time.sleep(0.2)
    assert proxy.counts()["bytes_to_clients"] < 40_000_000  # of 280: what sockets had taken in before they were closed


def test_ranges(b: str) -> None:
    for key in ("x", "x\n"):
        uri = f"s3://{b}/{key}"
        storage.write(uri, BODY)
        tag = storage.stat(uri).etag
        for start, end in [(0, 1), (5, 5), (100, 40_000), (40_000, 50_000), (7, None), (None, 9), (0, len(BODY))]:
            assert (
                storage.fetch(uri, storage.Read(etag=tag, max_bytes=1 << 20, start=start, end=end)) == BODY[start:end]
            )
        assert (
            code_of(lambda uri=uri: storage.fetch(uri, storage.Read(etag="other", max_bytes=1 << 20, start=0, end=1)))
            == "changed"
        )


def test_typed_errors(s3_endpoint: Endpoint, b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def check(uri: str, code: str, kind: type[OSError], etag: str | None = None, only_fetch: bool = False) -> None:
        with pytest.raises(InputError) as caught:
            storage.fetch(uri, storage.Read(etag=etag, max_bytes=10))
        assert caught.value.code == code
        texts.extend([str(caught.value), repr(caught.value)])
        for call in () if only_fetch else (storage.read, storage.stat):
            with pytest.raises(kind) as found:
                call(uri)
            assert type(found.value) is kind
            texts.extend([str(found.value), repr(found.value), repr(found.value.__cause__)])

    for key in ("x", "x\n"):
        storage.write(f"s3://{b}/{key}", b"12345")
        check(f"s3://{b}/{key}", "changed", OSError, etag="0" * 32, only_fetch=True)
        check(f"s3://{b}/none{key}", "not_found", FileNotFoundError)
        check(f"s3://{b}-none/{key}", "not_found", FileNotFoundError)
    secret = "wrongsecretwrongsecret"
    for endpoint in (replace(s3_endpoint, secret_key=secret), replace(s3_endpoint, access_key="NOBODYNOBODY")):
        with applied(endpoint):
            storage.configure(storage.StorageConfig())
            for key in ("x", "x\n"):
                check(f"s3://{b}/{key}", "forbidden", PermissionError)
            for call in (storage.names, storage.exists, storage.is_folder, storage.delete, uris):
                with pytest.raises(PermissionError):
                    call(f"s3://{b}/x")
            with pytest.raises(PermissionError):
                storage.create(f"s3://{b}/y", b"")
            texts.append(repr(storage.store("s3://x")) + str(vars(storage.store("s3://x"))))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    storage.configure(storage.StorageConfig())
    for key in ("x", "x\n"):
        check(f"s3://{b}/{key}", "forbidden", PermissionError)
    storage.configure(storage.StorageConfig(anonymous=True))
    for key in ("x", "x\n"):
        check(f"s3://{b}/{key}", "forbidden", PermissionError)
    client(s3_endpoint).put_object_acl(Bucket=b, Key="x", ACL="public-read")
    assert storage.fetch(f"s3://{b}/x", storage.Read(max_bytes=10)) == b"12345"
    assert len(texts) > 40
    for text in texts:
        assert secret not in text
        assert s3_endpoint.secret_key not in text


def test_a_stalled_store_is_a_timeout_in_time(b: str, through: Callable[..., FaultProxy]) -> None:
    for key in ("x", "x\n"):
        storage.write(f"s3://{b}/{key}", BODY)
    storage.write(f"s3://{b}/large", LARGE)
    proxy = through(Fault(kind="stall", seconds=60))
    for key in ("x", "x\n", "large"):
        began = time.monotonic()
        assert (
            code_of(lambda u=f"s3://{b}/{key}": storage.fetch(u, storage.Read(max_bytes=1 << 30, deadline_s=2)))
            == "timeout"
        )
        assert time.monotonic() - began < STALLED_S
    # The first range comes and the second stalls: one deadline for all of them.
    proxy.set_faults([Fault(kind="latency", seconds=1.5), Fault(kind="server_error", rate=0.5)])
    began = time.monotonic()
    assert code_of(lambda: storage.fetch(f"s3://{b}/large", storage.Read(max_bytes=1 << 30, deadline_s=3))) == "timeout"
    assert time.monotonic() - began < STALLED_S
    proxy.set_faults([Fault(kind="refuse", seconds=60)])
    began = time.monotonic()
    assert code_of(lambda: storage.fetch(f"s3://{b}/x", storage.Read(max_bytes=1 << 30, deadline_s=2))) == "timeout"
    assert time.monotonic() - began < STALLED_S


@pytest.mark.parametrize("kind", ["throttle", "server_error", "reset", "truncate", "stall", "refuse"])
def test_faults_are_survived(b: str, through: Callable[..., FaultProxy], kind: str) -> None:
    keys = ["x", "x\n"]
    proxy = through()
    proxy.set_faults([Fault(kind=kind, rate=0.3, burst=2, times=12, seconds=2.5 if kind == "stall" else 1)])
    if kind == "stall":
        proxy.set_faults([Fault(kind=kind, times=2, seconds=1)])

    def steps(number: int) -> None:
        for key in keys:
            uri = f"s3://{b}/{number}{key}"
            storage.write(uri, BODY)
            assert storage.fetch(uri, storage.Read(etag=storage.stat(uri).etag, max_bytes=1 << 20)) == BODY
            assert storage.read(uri) == BODY
            assert storage.exists(uri)
            assert f"{number}{key}" in storage.names(f"s3://{b}")
            storage.delete(uri)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(steps, range(4)))
    assert proxy.counts()["faults"][kind] >= 1


def test_nothing_but_the_named_server_is_asked(b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    resolve = socket.getaddrinfo

    def spy(host: Any, *arguments: Any, **named: Any) -> Any:
        asked.add(str(host))
        return resolve(host, *arguments, **named)

    monkeypatch.setattr("socket.getaddrinfo", spy)
    storage.configure(storage.StorageConfig())
    storage.write(f"s3://{b}/x", b"1")
    storage.create(f"s3://{b}/y", b"1")
    assert len(uris(f"s3://{b}")) == 2
    assert asked <= {"127.0.0.1"}
    where = storage.store("s3://x")
    assert isinstance(where, s3.S3)
    assert where.endpoint().startswith("http://127.0.0.1:")
    assert storage.delta_options(f"s3://{b}")["AWS_ENDPOINT_URL"] == where.endpoint()


def test_a_parquet_file_is_read_in_pieces(b: str, through: Callable[..., FaultProxy]) -> None:
    table = pa.table({"number": range(1000), "data": [os.urandom(4000) for _ in range(1000)]})
    pq.write_table(table, where := io.BytesIO(), row_group_size=100)
    uri = f"s3://{b}/x.parquet"
    storage.write(uri, where.getvalue())
    proxy = through(Fault(kind="reset", methods=("GET",), times=2))
    with storage.open_file(uri) as file:
        file_ = pq.ParquetFile(file)
        assert file_.read_row_group(5).equals(table.slice(500, 100))
        assert proxy.counts()["bytes_to_clients"] < len(where.getvalue())
        assert file_.read().equals(table)
    with storage.open_file(uri) as file:
        data = where.getvalue()
        assert file.seekable()
        assert file.readable()
        assert file.read(4) == b"PAR1"
        assert file.tell() == 4
        assert file.seek(-4, io.SEEK_END) == len(data) - 4
        assert file.read(100) == b"PAR1"
        assert file.read(1) == b""
        assert file.seek(2_000_000) == 2_000_000
        assert file.read(1_500_000) == data[2_000_000:3_500_000]
        assert file.seek(-10, io.SEEK_CUR) == 3_499_990
        assert file.read(10) == data[3_499_990:3_500_000]
    with storage.open_file(uri) as file:
        storage.write(uri, b"other")
        with pytest.raises(InputError, match="changed"):
            file.read(10)


def test_what_is_a_folder_and_what_is_there(b: str) -> None:
    storage.write(f"s3://{b}/a/b/c", b"x")
    assert [storage.exists(f"s3://{b}{path}") for path in ("", "/", "/a", "/a/b/c", "/a/x", "/a/b/c/d")] == [
        *(True, True, True, True, False, False)
    ]
    assert [storage.is_folder(f"s3://{b}{path}") for path in ("", "/a", "/a/", "/a/b", "/a/b/c")] == [
        *(True, True, True, True, False)
    ]
    for missing in (f"s3://{b}-none", f"s3://{b}-none/x", f"s3://{b}/nothing"):
        assert not storage.exists(missing)
        assert not storage.is_folder(missing)
    storage.delete(f"s3://{b}/never/there")
    with pytest.raises(RequestError, match="names no bucket"):
        storage.read("s3:///x")


def test_settings_reach_the_clients(s3_endpoint: Endpoint, b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(f"s3://{b}/x", b"12345")
    for url in ("ftp://x", "x", "http://key:hidden@host", "https://key:hidden@host"):
        with pytest.raises(RequestError, match=r"endpoint_url must") as caught:
            storage.StorageConfig(endpoint_url=url)
        assert "hidden" not in str(caught.value)
    with pytest.raises(RequestError) as caught:
        storage.read("s3://key:hidden@bucket/x")
    assert "hidden" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    config = storage.StorageConfig(endpoint_url=s3_endpoint.url, region="us-east-1", addressing="path")
    storage.configure(config)
    assert storage.configured() == config.environment()
    assert set(config.environment()) == {
        *("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "PARQUETRY_S3_ADDRESSING")
    }
    for key in ("x", "x\n"):
        storage.write(f"s3://{b}/{key}", b"12345")
        assert storage.fetch(f"s3://{b}/{key}", storage.Read(max_bytes=9)) == b"12345"
        assert storage.fetch(f"s3a://{b}/{key}", storage.Read(max_bytes=9)) == b"12345"
    storage.configure(storage.StorageConfig())
    assert storage.configured() == {}
    assert "AWS_ENDPOINT_URL_S3" not in os.environ
    assert code_of(lambda: storage.fetch(f"s3://{b}/x", storage.Read(max_bytes=9, deadline_s=1))) == "timeout"


def test_another_make_of_server(swift_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGES_BEFORE_SPLIT", 1)
    with applied(swift_endpoint), bucket(swift_endpoint) as name:
        storage.configure(storage.StorageConfig())
        keys = ["a/1", "a/b c%ü", "a/new\nline", "a//b", "x?#+*[", "a/2/3"]
        for key in keys:
            storage.write(f"s3://{name}/{key}", key.encode())
        assert sorted(uris(f"s3://{name}")) == sorted(f"s3://{name}/{key}" for key in keys)
        assert uris(f"s3://{name}/a", "b") == [f"s3://{name}/a/b c%ü"]
        for row in itertools.chain(*(page.to_pylist() for page in storage.walk(f"s3://{name}"))):
            key = row["uri"].partition(f"{name}/")[2]
            assert storage.fetch(row["uri"], storage.Read(etag=row["etag"], max_bytes=100)) == key.encode()
            assert (
                storage.fetch(row["uri"], storage.Read(etag=row["etag"], max_bytes=100, start=1, end=3))
                == key.encode()[1:3]
            )
        assert storage.names(f"s3://{name}/a") == ["1", "2", "b c%ü", "new\nline"]
        assert code_of(lambda: storage.fetch(f"s3://{name}/none", storage.Read(max_bytes=9))) == "not_found"
        assert code_of(lambda: storage.fetch(f"s3://{name}/a/1", storage.Read(etag="0" * 32, max_bytes=9))) == "changed"
        fill(swift_endpoint, name, [f"m/{i % 3}/{i:05d}" for i in range(1010)])
        assert len(set(uris(f"s3://{name}/m"))) == len(uris(f"s3://{name}/m")) == 1010
        for key in keys:
            storage.delete(f"s3://{name}/{key}")
        assert storage.names(f"s3://{name}") == ["m"]
