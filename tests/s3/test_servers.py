"""The S3 servers and the faults in front of them do what tests that use them rely on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from testing.processes import ROOT, descendants
from testing.s3 import ceph, swift
from testing.s3.ceph import Ceph, Endpoint, Server, ServerError
from testing.s3.fixtures import applied, bucket, client, signed
from testing.s3.proxy import Fault, FaultProxy, Plan
from testing.s3.swift import Swift

pytestmark = pytest.mark.s3

BODY = bytes(range(256)) * 160  # 40 KB


class Wire:
    """One connection, without a retry or any other kindness."""

    def __init__(self, endpoint: Endpoint, timeout_s: float = 20) -> None:
        self.endpoint = endpoint
        self.connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=timeout_s)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def begin(self, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        self.connection.request(method, path, body, signed(self.endpoint, method, path, body, headers))
        return self.connection.getresponse()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        answer = self.begin(method, path, body, **headers)
        return answer.status, answer.read()


@pytest.fixture(scope="module", params=["ceph", "swift"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    return request.getfixturevalue("s3_endpoint" if request.param == "ceph" else "swift_endpoint")


@pytest.fixture(scope="module")
def stored(s3_endpoint: Endpoint) -> Iterator[str]:
    """The path of an object of 40 KB."""
    with bucket(s3_endpoint) as name:
        client(s3_endpoint).put_object(Bucket=name, Key="object", Body=BODY)
        yield f"/{name}/object"


def test_put_get_list_delete(endpoint: Endpoint) -> None:
    s3 = client(endpoint)
    with bucket(endpoint) as name:
        for key in ["a/1", "a/2", "b c%ü"]:
            s3.put_object(Bucket=name, Key=key, Body=BODY + key.encode())
        found = {item["Key"]: item["Size"] for item in s3.list_objects_v2(Bucket=name)["Contents"]}
        assert found == {key: len(BODY + key.encode()) for key in ["a/1", "a/2", "b c%ü"]}
        assert s3.list_objects_v2(Bucket=name, Delimiter="/")["CommonPrefixes"] == [{"Prefix": "a/"}]
        assert s3.get_object(Bucket=name, Key="b c%ü")["Body"].read() == BODY + "b c%ü".encode()
        assert s3.get_object(Bucket=name, Key="a/1", Range="bytes=1-3")["Body"].read() == b"\1\2\3"
        s3.delete_object(Bucket=name, Key="a/1")
        with pytest.raises(ClientError, match="NoSuchKey"):
            s3.get_object(Bucket=name, Key="a/1")
        upload = s3.create_multipart_upload(Bucket=name, Key="large")["UploadId"]
        part = os.urandom(5 * 2**20)
        done = [
            {"PartNumber": number, "ETag": s3.upload_part(**target, PartNumber=number, Body=part)["ETag"]}
            for target in [{"Bucket": name, "Key": "large", "UploadId": upload}]
            for number in (1, 2)
        ]
        s3.complete_multipart_upload(Bucket=name, Key="large", UploadId=upload, MultipartUpload={"Parts": done})
        assert s3.get_object(Bucket=name, Key="large")["Body"].read() == part * 2
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.list_objects_v2(Bucket=name)


def test_a_wrong_signature_is_refused(endpoint: Endpoint) -> None:
    wrong = Endpoint(url=endpoint.url, access_key=endpoint.access_key, secret_key="wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(wrong).create_bucket(Bucket="test-nobody")


def test_of_sixteen_that_create_an_object_one_wins(s3_endpoint: Endpoint, s3_bucket: str) -> None:
    path = f"/{s3_bucket}/lock"
    ready = threading.Barrier(16)

    def create(number: int) -> int:
        with Wire(s3_endpoint) as wire:
            ready.wait(20)
            return wire.ask("PUT", path, str(number).encode(), **{"If-None-Match": "*"})[0]

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(create, range(16)))
    assert sorted(set(statuses) - {409}) == [200, 412]
    assert statuses.count(200) == 1
    with Wire(s3_endpoint) as wire:
        assert wire.ask("GET", path) == (200, str(statuses.index(200)).encode())


def test_the_environment_is_set_and_put_back(s3_environment: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ["AWS_ENDPOINT_URL"] == s3_environment.url
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with applied(Endpoint(url="http://elsewhere", access_key="a", secret_key="b")):
        assert os.environ["AWS_ENDPOINT_URL"] == "http://elsewhere"
        assert "AWS_PROFILE" not in os.environ
    assert os.environ["AWS_ENDPOINT_URL"] == s3_environment.url
    assert os.environ["AWS_PROFILE"] == "mine"


def test_the_proxy_lets_everything_through(endpoint: Endpoint, tmp_path: Path) -> None:
    with FaultProxy(endpoint, log=tmp_path / "log") as proxy:
        test_put_get_list_delete(proxy.endpoint)
        with bucket(proxy.endpoint) as name, Wire(proxy.endpoint) as wire:
            for size in (0, 1, 70_000, 20_000_000):
                content = os.urandom(size)
                assert wire.ask("PUT", f"/{name}/x", content)[0] == 200
                assert wire.ask("GET", f"/{name}/x") == (200, content)
                assert wire.ask("HEAD", f"/{name}/x") == (200, b"")
            assert wire.ask("GET", f"/{name}/nothing")[0] == 404
        counts, requests = proxy.counts(), proxy.requests()
    assert counts == proxy.final
    assert counts["requests"] == len(requests) == sum(counts["methods"].values())
    assert set(counts["faults"].values()) == {0}
    assert [r["bytes"] for r in requests if r["path"] == f"/{name}/x" and r["method"] == "GET"][3] == 20_000_000
    assert any(r["path"].endswith("b c%ü") and r["status"] == 200 for r in requests)
    assert not [r for r in requests if r["method"] == "GET" and r["path"] == "/somewhere/else"]


def test_reset(s3_endpoint: Endpoint, stored: str) -> None:
    with FaultProxy(s3_endpoint, [Fault(kind="reset", methods=("GET",))]) as proxy, Wire(proxy.endpoint) as wire:
        assert wire.ask("HEAD", stored) == (200, b"")
        answer = wire.begin("GET", stored)
        assert (answer.status, answer.length) == (200, len(BODY))
        got = bytearray()
        with pytest.raises(ConnectionResetError):
            got.extend(piece for _ in range(1000) for piece in answer.read1())
        assert BODY.startswith(got)
        assert len(got) <= len(BODY) // 2
        assert proxy.counts()["faults"]["reset"] == 1


def test_truncate(s3_endpoint: Endpoint, stored: str) -> None:
    with FaultProxy(s3_endpoint, [Fault(kind="truncate")]) as proxy, Wire(proxy.endpoint) as wire:
        answer = wire.begin("GET", stored)
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
        assert caught.value.partial == BODY[: len(BODY) // 2]


def test_a_put_whose_answer_is_lost_has_happened(s3_endpoint: Endpoint, s3_bucket: str) -> None:
    faults = [Fault(kind=kind, methods=("PUT",), prefix=f"/{s3_bucket}/{kind}") for kind in ("reset", "truncate")]
    with FaultProxy(s3_endpoint, faults) as proxy:
        for kind, error in [("reset", ConnectionResetError), ("truncate", http.client.RemoteDisconnected)]:
            with Wire(proxy.endpoint) as wire:
                with pytest.raises(error):
                    wire.ask("PUT", f"/{s3_bucket}/{kind}", b"there")
                assert wire.ask("GET", f"/{s3_bucket}/{kind}") == (200, b"there")


def test_stall(s3_endpoint: Endpoint, stored: str) -> None:
    with FaultProxy(s3_endpoint, [Fault(kind="stall", seconds=4, times=1)]) as proxy, Wire(proxy.endpoint) as wire:
        answer = wire.begin("GET", stored)
        assert answer.read(len(BODY) // 2) == BODY[: len(BODY) // 2]
        began = time.monotonic()
        assert answer.read() == BODY[len(BODY) // 2 :]
        assert time.monotonic() - began > 3
        began = time.monotonic()
        assert wire.ask("GET", stored) == (200, BODY)
        assert time.monotonic() - began < 3, "only one answer stalls"
    with FaultProxy(s3_endpoint, [Fault(kind="stall", seconds=5)]) as proxy, Wire(proxy.endpoint, 0.5) as wire:
        answer = wire.begin("GET", stored)
        with pytest.raises(TimeoutError):
            answer.read()


def test_throttle_keeps_the_connection_and_the_server_in_peace(s3_endpoint: Endpoint, s3_bucket: str) -> None:
    faults = [Fault(kind="throttle", methods=("PUT",), times=2)]
    with FaultProxy(s3_endpoint, faults) as proxy, Wire(proxy.endpoint) as wire:
        for _ in range(2):
            status, text = wire.ask("PUT", f"/{s3_bucket}/x", os.urandom(3_000_000))
            assert (status, b"<Code>SlowDown</Code>" in text) == (503, True)
            assert wire.ask("GET", f"/{s3_bucket}/x")[0] == 404
        assert wire.ask("PUT", f"/{s3_bucket}/x", b"1")[0] == 200
        counts = proxy.counts()
        assert counts["statuses"] == {"503": 2, "404": 2, "200": 1}
        # The connection of the wire, and this question.
        assert counts["connections"] == 2
        proxy.set_faults([Fault(kind="throttle")])
        with pytest.raises(ClientError, match="SlowDown"):
            client(proxy.endpoint, retries=0).put_object(Bucket=s3_bucket, Key="y", Body=BODY)


def test_server_errors_come_in_bursts(s3_endpoint: Endpoint, stored: str) -> None:
    faults = [Fault(kind="server_error", rate=0.1, burst=4)]
    with FaultProxy(s3_endpoint, faults, seed=3) as proxy, Wire(proxy.endpoint) as wire:
        statuses = [wire.ask("GET", stored)[0] for _ in range(200)]
    runs = "".join("x" if status == 500 else " " for status in statuses).split()
    assert set(statuses) == {200, 500}
    assert all(len(run) % 4 == 0 for run in runs[:-1])
    assert 5 <= len(runs) <= 30


def test_refuse(s3_endpoint: Endpoint, stored: str) -> None:
    with FaultProxy(s3_endpoint, [Fault(kind="refuse", start_s=0.5, seconds=1)]) as proxy:
        with Wire(proxy.endpoint) as wire:
            assert wire.ask("GET", stored) == (200, BODY)
            time.sleep(0.9)
            with pytest.raises(ConnectionError):
                wire.ask("GET", stored)
        host, port = urlsplit(proxy.endpoint.url).netloc.split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
        assert proxy.counts()["faults"]["refuse"] == 1
        time.sleep(1)
        with Wire(proxy.endpoint) as wire:
            assert wire.ask("GET", stored) == (200, BODY)
        proxy.set_faults([Fault(kind="refuse", seconds=60)])
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError), Wire(proxy.endpoint) as wire:
            wire.ask("GET", stored)
        proxy.set_faults([])
        with Wire(proxy.endpoint) as wire:
            assert wire.ask("GET", stored) == (200, BODY)


def test_latency_adds_to_another_fault(s3_endpoint: Endpoint, stored: str) -> None:
    faults = [Fault(kind="latency", seconds=0.4), Fault(kind="throttle", times=1)]
    with FaultProxy(s3_endpoint, faults) as proxy, Wire(proxy.endpoint) as wire:
        for status in (503, 200):
            began = time.monotonic()
            assert wire.ask("GET", stored)[0] == status
            assert 0.35 < time.monotonic() - began < 5


def test_windows_prefixes_and_switching(s3_endpoint: Endpoint, stored: str) -> None:
    with FaultProxy(s3_endpoint) as proxy, Wire(proxy.endpoint) as wire:

        def status(path: str = stored) -> int:
            return wire.ask("GET", path)[0]

        assert status() == 200
        proxy.set_faults([Fault(kind="throttle", start_s=0.5, end_s=1.5)])
        assert status() == 200
        time.sleep(0.8)
        assert status() == 503
        time.sleep(1)
        assert status() == 200
        proxy.set_faults([Fault(kind="throttle", prefix=stored)])
        assert (status(), status(stored.rsplit("/", 1)[0])) == (503, 200)
        proxy.set_faults([])
        assert status() == 200
        assert proxy.counts()["faults"]["throttle"] == 2


def test_answers_in_chunks_and_requests_that_ask_first(s3_endpoint: Endpoint) -> None:
    """A server that no S3 server is: its answers are in chunks with trailers, or end with the connection."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    told: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            while True:
                head = b"".join(iter(lines.readline, b"\r\n"))
                if b"100-continue" in head:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    told.append(lines.read(5))
                elif b"chunked" in head:
                    told.append(b"".join(iter(lines.readline, b"\r\n")))
                if head.startswith(b"GET /end"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
                    return
                connection.sendall(chunked)
                for chunk in (b"5;x=y\r\nhe", b"llo\r\n6\r", b"\n world\r\n0\r\nSum: 1\r\n", b"\r\n"):
                    connection.sendall(chunk)
                    time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        upstream = Endpoint(url=f"http://127.0.0.1:{listener.getsockname()[1]}", access_key="a", secret_key="b")
        with FaultProxy(upstream) as proxy, Wire(proxy.endpoint) as wire:
            assert wire.ask("GET", "/x") == (200, b"hello world")
            wire.connection.request("PUT", "/x", iter([b"abc", b"de"]), encode_chunked=True)
            assert wire.connection.getresponse().read() == b"hello world"
            wire.connection.putrequest("PUT", "/x")
            wire.connection.putheader("Expect", "100-continue")
            wire.connection.putheader("Content-Length", "5")
            wire.connection.endheaders()
            time.sleep(0.2)
            wire.connection.send(b"leave")
            assert wire.connection.getresponse().read() == b"hello world"
            assert wire.ask("GET", "/end") == (200, b"until the end")
            assert proxy.counts()["connections"] == 2
        thread.join(10)
    assert told == [b"3\r\nabc\r\n2\r\nde\r\n0\r\n", b"leave"]


def test_the_same_requests_meet_faults_in_any_order() -> None:
    faults = [Fault(kind="reset", rate=0.2), Fault(kind="throttle", rate=0.1, methods=("GET",))]
    requests = [("GET", f"/b/{key}") for key in range(200)] * 3 + [("PUT", f"/b/{key}") for key in range(200)]

    def met(order: list[tuple[str, str]], seed: int) -> list[tuple[str, str, str]]:
        plan = Plan(faults, seed)
        return sorted((m, p, f.kind) for m, p in order for f in plan.faults_of(m, p))

    first = met(requests, 1)
    assert first == met(requests[::-1], 1)
    assert first != met(requests, 2)
    assert 100 < sum(kind == "reset" for *_, kind in first) < 220
    assert {m for m, _, kind in first if kind == "throttle"} == {"GET"}


@pytest.mark.parametrize("fault", [{"kind": "nothing"}, {"kind": "reset", "rate": 2}, {"kind": "reset", "when": 1}])
def test_a_wrong_fault_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind|rate|when"):
        Fault.parse(fault)


@pytest.mark.parametrize("kind", [Ceph, Swift])
def test_nothing_stays(kind: type[Server], tmp_path: Path) -> None:
    found, why = (ceph if kind is Ceph else swift).available()
    if not found:
        pytest.skip(why)
    before = set(descendants(os.getpid()))
    with kind(folder=tmp_path) as server:
        started = {process.pid for process in server.processes.running.values()}
        assert started <= set(descendants(os.getpid())) - before
        assert list(tmp_path.iterdir()) == [server.folder]
    assert not started & set(descendants(os.getpid()))
    assert list(tmp_path.iterdir()) == []


def test_no_process_stays_of_a_killed_one(tmp_path: Path) -> None:
    """As after a kill -9 of the tests: no handler runs, and all programs end nevertheless."""
    found, why = ceph.available()
    if not found:
        pytest.skip(why)
    command = [sys.executable, "-m", "testing.s3.ceph"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith(b"export AWS_ENDPOINT_URL=http://127.0.0.1:")
        started = descendants(parent.pid)
        assert len(started) == 3
        parent.kill()
    end = time.monotonic() + 10
    while alive := [pid for pid in started if _runs(pid)]:
        assert time.monotonic() < end, f"still there: {alive}"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, why = ceph.available()
    if not found:
        pytest.skip(why)
    broken = tmp_path / "bin" / "ceph-osd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no room for objects\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=os.pathsep)
    before = set(descendants(os.getpid()))
    (tmp_path / "home").mkdir()
    with (
        pytest.raises(ServerError, match=r"(?s)ceph-osd ended with 3.*no room for objects"),
        Ceph(folder=tmp_path / "home"),
    ):
        pass
    assert set(descendants(os.getpid())) <= before
    assert list((tmp_path / "home").iterdir()) == []


def test_the_proxy_by_itself(s3_endpoint: Endpoint, stored: str) -> None:
    command = [sys.executable, "-m", "testing.s3.proxy", "--upstream", s3_endpoint.url]
    command += ["--faults", '[{"kind": "throttle", "times": 1}]']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        through = Endpoint(url=urls["url"], access_key=s3_endpoint.access_key, secret_key=s3_endpoint.secret_key)
        with Wire(through) as wire:
            assert [wire.ask("GET", stored)[0] for _ in range(3)] == [503, 200, 200]
            wire.connection.request("GET", "/__proxy__/counts")
            counts = json.loads(wire.connection.getresponse().read())
            assert (counts["requests"], counts["faults"]["throttle"]) == (3, 1)
            process.send_signal(signal.SIGTERM)
            assert json.loads(process.stdout.read()) == counts
    assert process.returncode == 0
