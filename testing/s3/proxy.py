"""A proxy in front of an S3 server that injects the faults of a network, of a busy server, or of a restart.

Requests are forwarded byte for byte. Clients sign them for the proxy's address, and S3 servers check the signature
against the ``Host`` header that they get. The proxy is a separate process, so that the load of a test does not slow it
down::

    python -m testing.s3.proxy --upstream http://127.0.0.1:8080 --faults '[{"kind": "throttle", "rate": 0.1}]'

It prints one line of JSON with ``url``, the address for S3 clients, and ``control``, which answers even while ``url``
refuses connections. On both, ``GET /__proxy__/counts`` returns what has happened, and ``PUT /__proxy__/faults`` sets
other faults. At SIGTERM the proxy prints the counts as another line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO
from urllib.parse import unquote, urlsplit

from testing.s3.ceph import Endpoint, free_ports, guarded

ROOT = Path(__file__).parent.parent.parent
CONTROL = "/__proxy__/"
PIECE = 2**17
HEAD_LIMIT = 2**18
#: Kinds of faults that cut the server's answer, kinds in which the proxy answers instead of it, and all kinds.
CUTS = ("reset", "stall", "truncate")
ANSWERS = {"throttle": (503, "Service Unavailable", "SlowDown"), "server_error": (500, "Internal", "InternalError")}
KINDS = (*CUTS, *ANSWERS, "refuse", "latency")

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault, and the requests and times that it applies to.

    Whether it affects the n-th request for a path depends only on the seed, the method, the path and n. So a run can be
    repeated although its requests come in another order.
    """

    kind: str
    """``reset``: the connection is reset in the middle of the answer's body.
    ``truncate``: the connection is closed there in an orderly way.
    ``stall``: the answer pauses there for ``seconds``.
    (An answer without a body is cut before it begins: the server has done the request, but the client does not know.)
    ``throttle``: the proxy answers 503 SlowDown and does not forward the request.
    ``server_error``: the proxy answers 500 InternalError and does not forward the request.
    ``latency``: the request is delayed by ``seconds``.
    ``refuse``: at ``start_s`` all connections are reset, and new ones are refused for ``seconds``."""
    rate: float = 1.0
    """Probability for each request."""
    start_s: float = 0.0
    """Time from which on the fault occurs, in seconds after the faults were set."""
    end_s: float | None = None
    """Time until which the fault occurs, in seconds after the faults were set; null: no end."""
    methods: tuple[str, ...] = ()
    """Affected HTTP methods; empty: all."""
    prefix: str = "/"
    """Affected paths begin with this prefix. A path begins with the bucket."""
    seconds: float = 1.0
    """Duration of ``stall``, ``latency`` and ``refuse`` in seconds."""
    burst: int = 1
    """Number of matching requests in a row that are affected when the fault occurs."""
    times: int | None = None
    """Largest number of affected requests; null: no limit."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be between 0 and 1, not {self.rate}")

    @classmethod
    def parse(cls, item: dict[str, Any]) -> Fault:
        unknown = set(item) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        values: dict[str, Any] = item | {"methods": tuple(item.get("methods", ()))}
        return cls(**values)


class Plan:
    """Decides which faults affect which requests."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults = list(faults)
        self.seed = seed
        self.began = time.monotonic()
        self.met = [0] * len(self.faults)
        self.burst = [0] * len(self.faults)
        self.seen: Counter[tuple[str, str]] = Counter()

    def faults_of(self, method: str, path: str) -> list[Fault]:
        """The faults that affect this request. At most one of them is of another kind than ``latency``."""
        if not self.faults:
            return []
        age = time.monotonic() - self.began
        self.seen[method, path] += 1
        found: list[Fault] = []
        broken = False
        for index, fault in enumerate(self.faults):
            if fault.kind == "refuse" or (broken and fault.kind != "latency"):
                continue
            if self._meets(index, fault, age, method, path):
                self.met[index] += 1
                found.append(fault)
                broken = broken or fault.kind != "latency"
        return found

    def _meets(self, index: int, fault: Fault, age: float, method: str, path: str) -> bool:
        if age < fault.start_s or (fault.end_s is not None and age >= fault.end_s):
            return False
        if fault.times is not None and self.met[index] >= fault.times:
            return False
        if (fault.methods and method not in fault.methods) or not path.startswith(fault.prefix):
            return False
        if self.burst[index]:
            self.burst[index] -= 1
            return True
        if fault.rate < 1:
            text = f"{self.seed} {index} {method} {path} {self.seen[method, path]}"
            drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
            if drawn >= fault.rate * 2**64:
                return False
        self.burst[index] = fault.burst - 1
        return True


@dataclass(frozen=True)
class Head:
    """The head of a request or an answer, byte for byte, and the fields that decide where the message ends."""

    raw: bytes
    length: int | None
    chunked: bool

    @classmethod
    def of(cls, raw: bytes) -> Head:
        found = _LENGTH.search(raw)
        return cls(raw, int(found[1]) if found else None, _CHUNKED.search(raw) is not None)

    @property
    def closes(self) -> bool:
        return _CLOSE.search(self.raw) is not None


async def pieces(reader: asyncio.StreamReader, head: Head, until_closed: bool) -> AsyncIterator[bytes]:
    """Yield a body in pieces of limited size, byte for byte, including the marks between chunks."""
    if head.chunked:
        size = -1
        while size:
            mark = await reader.readuntil(b"\r\n")
            size = int(mark.split(b";")[0], 16)
            yield mark
            left = size + 2 if size else 0
            while left:
                piece = await _some(reader, left)
                left -= len(piece)
                yield piece
        while True:  # trailers, and the empty line after them
            line = await reader.readuntil(b"\r\n")
            yield line
            if line == b"\r\n":
                return
    elif head.length is not None:
        left = head.length
        while left:
            piece = await _some(reader, left)
            left -= len(piece)
            yield piece
    elif until_closed:
        while piece := await reader.read(PIECE):
            yield piece


async def _some(reader: asyncio.StreamReader, most: int) -> bytes:
    piece = await reader.read(min(PIECE, most))
    if not piece:
        raise asyncio.IncompleteReadError(b"", most)
    return piece


class Cut(Exception):
    """A fault has ended the connection on purpose."""


class Proxy:
    """The proxy within one event loop."""

    def __init__(self, upstream: str, faults: Iterable[Fault], seed: int, log: TextIO | None) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"upstream must be http://HOST:PORT, not {upstream!r}")
        self.upstream = (parts.hostname, parts.port or 80)
        self.seed = seed
        self.log = log
        self.connections: set[Connection] = set()
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.met: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.totals: Counter[str] = Counter({"connections": 0, "bytes_to_clients": 0, "upstream_failures": 0})
        self.outages: set[asyncio.Task[None]] = set()
        self.listener: asyncio.Server | None = None
        self.port = 0
        self.plan = Plan(faults, seed)

    async def listen(self, port: int) -> None:
        self.port = port
        self.listener = await asyncio.start_server(
            self.serve, "127.0.0.1", port, limit=HEAD_LIMIT, backlog=1024, reuse_address=True
        )

    async def listen_for_control(self) -> int:
        """Also serve on a control port, which keeps listening while the first port refuses connections."""
        self.control = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
        return self.control.sockets[0].getsockname()[1]

    async def set_faults(self, faults: Iterable[Fault]) -> None:
        """Replace the faults. Their clock starts now."""
        for outage in self.outages:
            outage.cancel()
        await asyncio.gather(*self.outages, return_exceptions=True)
        if self.listener is None:
            await self.listen(self.port)
        self.plan = Plan(faults, self.seed)
        self.outages = {asyncio.create_task(self._refuse(f)) for f in self.plan.faults if f.kind == "refuse"}

    async def _refuse(self, fault: Fault) -> None:
        await asyncio.sleep(fault.start_s)
        self.met["refuse"] += 1
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for connection in list(self.connections):
            if connection.port == self.port:
                connection.reset()
        await asyncio.sleep(fault.seconds)
        if self.listener is None:
            await self.listen(self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.totals["connections"] += 1
        connection = Connection(self, reader, writer)
        self.connections.add(connection)
        try:
            await connection.serve()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, Cut):
            connection.writer.transport.abort()  # no answer is possible; after an orderly end this has no effect
        except asyncio.CancelledError:
            pass  # the proxy ends; otherwise asyncio of Python 3.11 would complain about every open connection
        finally:
            self.connections.discard(connection)
            connection.close()

    def counts(self) -> dict[str, Any]:
        return {
            "requests": self.requests.total(),
            "methods": dict(self.requests),
            "statuses": dict(self.statuses),
            "faults": dict(self.met),
            **self.totals,
        }

    async def control_answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if (method, path) == ("GET", f"{CONTROL}counts"):
            return 200, self.counts()
        if (method, path) == ("PUT", f"{CONTROL}faults"):
            try:
                faults = [Fault.parse(item) for item in json.loads(body)]
            except (ValueError, TypeError) as reason:
                return 400, {"error": str(reason)}
            await self.set_faults(faults)
            return 200, {"faults": len(faults)}
        return 404, {"error": f"no {method} {path}"}


class Connection:
    """A client's connection to the proxy, and the proxy's connection to the server for it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]
        self.server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # Draining must write everything, so that a cut happens only after the bytes before it were sent.
        writer.transport.set_write_buffer_limits(high=0)

    def reset(self) -> None:
        """End the connection with RST instead of FIN, so that the client's next read fails."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()
        self.close_server()

    def close_server(self) -> None:
        if self.server is not None:
            self.server[1].transport.abort()
            self.server = None

    async def serve(self) -> None:
        """Serve the requests of the connection one by one, until either side closes it."""
        while True:
            try:
                raw = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise
                return
            head = Head.of(raw)
            first, _, _ = raw.partition(b"\r\n")
            method, target, _ = first.decode("latin-1").split(" ", 2)
            if target.startswith(CONTROL):
                keep = await self._answer_control(method, target, head)
            else:
                keep = await self._answer(method, target, head)
            if not keep:
                return

    async def _answer_control(self, method: str, target: str, head: Head) -> bool:
        body = b"".join([piece async for piece in pieces(self.reader, head, False)])
        status, answer = await self.proxy.control_answer(method, target, body)
        await self._say(
            status, "OK" if status == 200 else "Wrong", "application/json", json.dumps(answer).encode(), head.closes
        )
        return not head.closes

    async def _answer(self, method: str, target: str, head: Head) -> bool:
        path, _, query = target.partition("?")
        path = unquote(path)
        proxy = self.proxy
        proxy.requests[method] += 1
        faults = proxy.plan.faults_of(method, path)
        said: dict[str, Any] = {"status": None, "bytes": 0}
        try:
            broken = None
            for fault in faults:
                proxy.met[fault.kind] += 1
                if fault.kind == "latency":
                    await asyncio.sleep(fault.seconds)
                else:
                    broken = fault
            if broken is not None and broken.kind in ANSWERS:
                return await self._refuse_politely(broken.kind, method, head, said)
            return await self._forward(method, head, broken, said)
        finally:
            proxy.statuses[str(said["status"])] += 1
            proxy.totals["bytes_to_clients"] += said["bytes"]
            if proxy.log is not None:
                entry = {"method": method, "path": path, "query": query, **said, "faults": [f.kind for f in faults]}
                proxy.log.write(json.dumps(entry) + "\n")

    async def _refuse_politely(self, kind: str, method: str, head: Head, said: dict[str, Any]) -> bool:
        """Answer with an error of S3, without asking the server."""
        status, reason, code = ANSWERS[kind]
        said["status"] = status
        waits = _EXPECT.search(head.raw) is not None
        if not waits:  # a client that waits for 100 Continue has not sent the body
            async for _ in pieces(self.reader, head, False):
                pass
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{reason}</Message></Error>'
        close = waits or head.closes
        await self._say(status, reason, "application/xml", b"" if method == "HEAD" else text.encode(), close)
        return not close

    async def _say(self, status: int, reason: str, kind: str, body: bytes, close: bool) -> None:
        lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += ["Connection: close"] if close else []
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection to the server; a new one if the server has closed the last one."""
        if self.server is not None and self.server[0].at_eof():
            self.close_server()
        if self.server is None:
            try:
                self.server = await asyncio.open_connection(*self.proxy.upstream, limit=HEAD_LIMIT)
            except OSError:
                self.proxy.totals["upstream_failures"] += 1
                raise
        return self.server

    async def _forward(self, method: str, head: Head, fault: Fault | None, said: dict[str, Any]) -> bool:
        """Forward the request and its answer. Both bodies are forwarded concurrently, as either side may send first."""
        reader, writer = await self._connect()
        writer.write(head.raw)
        upload = None
        if head.length or head.chunked:
            upload = asyncio.create_task(self._upload(writer, head))
        try:
            while True:
                answer = Head.of(await reader.readuntil(b"\r\n\r\n"))
                status = int(answer.raw[9:12])
                if status >= 200:
                    break
                self.writer.write(answer.raw)  # 100 Continue: the client may send its body now
            said["status"] = status
            without_body = method == "HEAD" or status in (204, 304)
            until_closed = not without_body and answer.length is None and not answer.chunked
            if without_body:
                answer = replace(answer, length=0, chunked=False)
            await self._download(reader, answer, until_closed, fault, said)
            if upload is not None and not upload.done():
                # The server has refused without reading the body. Some clients still send the rest, others never do.
                await asyncio.wait([upload], timeout=0 if _EXPECT.search(head.raw) else 5)
            done = upload is None or (upload.done() and upload.exception() is None)
            return done and not (until_closed or answer.closes or head.closes)
        except asyncio.IncompleteReadError:
            self.proxy.totals["upstream_failures"] += 1
            raise
        finally:
            if upload is not None and not upload.done():
                upload.cancel()
            if upload is not None:
                await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self, writer: asyncio.StreamWriter, head: Head) -> None:
        try:
            async for piece in pieces(self.reader, head, False):
                writer.write(piece)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.transport.abort()  # the client is gone; the server must not wait for the rest
            raise

    async def _download(
        self, reader: asyncio.StreamReader, answer: Head, until_closed: bool, fault: Fault | None, said: dict[str, Any]
    ) -> None:
        sent = 0
        cut_at = None if fault is None else (answer.length or 0) // 2
        if fault is not None and cut_at == 0 and not answer.chunked and not until_closed:
            await self._cut(fault)
            fault = None
        self.writer.write(answer.raw)
        async for piece in pieces(reader, answer, until_closed):
            if fault is not None and cut_at is not None and sent + len(piece) > cut_at:
                # If the length of the body is not known, cut in the middle of its first piece.
                keep = cut_at - sent if cut_at else len(piece) // 2
                self.writer.write(piece[:keep])
                sent += keep
                piece = piece[keep:]
                said["bytes"] = sent
                await self._cut(fault)
                fault = None
            self.writer.write(piece)
            sent += len(piece)
            said["bytes"] = sent
            await self.writer.drain()
        await self.writer.drain()

    async def _cut(self, fault: Fault) -> None:
        await self.writer.drain()
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "reset":
            self.reset()
            raise Cut
        else:
            self.writer.write_eof()
            self.writer.close()
            raise Cut


async def run(upstream: str, port: int, faults: list[Fault], seed: int, log: TextIO | None) -> None:
    proxy = Proxy(upstream, faults, seed, log)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await proxy.listen(port or free_ports(1)[0])
    control = await proxy.listen_for_control()
    await proxy.set_faults(faults)
    urls = {"url": f"http://127.0.0.1:{proxy.port}", "control": f"http://127.0.0.1:{control}"}
    print(json.dumps(urls), flush=True)
    await stop.wait()
    print(json.dumps(proxy.counts()), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m testing.s3.proxy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upstream", required=True, help="the S3 server, http://HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; 0: any that is free")
    parser.add_argument("--faults", default="[]", help="JSON list; the fields are those of the class Fault")
    parser.add_argument("--seed", type=int, default=0, help="which requests meet the faults")
    parser.add_argument("--log", type=Path, help="file for one line of JSON per request")
    options = parser.parse_args(arguments)
    try:
        faults = [Fault.parse(item) for item in json.loads(options.faults)]
    except (ValueError, TypeError) as reason:
        parser.error(f"--faults: {reason}")
    with open(options.log, "a", buffering=1) if options.log else contextlib.nullcontext() as log:
        asyncio.run(run(options.upstream, options.port, faults, options.seed, log))


class FaultProxy(AbstractContextManager["FaultProxy"]):
    """The proxy as a process, for the time of a ``with`` block."""

    def __init__(
        self, upstream: Endpoint, faults: Iterable[Fault] = (), *, seed: int = 0, log: Path | None = None
    ) -> None:
        """``log``: a file with one line for each request, which `requests` reads."""
        self.upstream = upstream
        self.faults = list(faults)
        self.seed = seed
        self.log = log
        self.final: dict[str, Any] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "testing.s3.proxy", "--upstream", self.upstream.url, "--seed", str(self.seed)]
        command += ["--faults", _json(self.faults)] + (["--log", str(self.log)] if self.log else [])
        self.process = subprocess.Popen(
            guarded(*command), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, process_group=0
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy ended with {self.process.wait()}")
        urls = json.loads(line)
        self.control: str = urls["control"]
        self.endpoint = replace(self.upstream, url=urls["url"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            out, _ = self.process.communicate(timeout=10)
            self.final = json.loads(out)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def counts(self) -> dict[str, Any]:
        """What has happened: ``requests``, ``methods``, ``statuses``, ``faults`` by kind, and some totals."""
        return self.final or self._ask("GET", "counts")

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """Replace the faults. Without faults, everything is forwarded."""
        self._ask("PUT", "faults", _json(faults).encode())

    def requests(self) -> list[dict[str, Any]]:
        """Every request that was answered or cut: method, path, query, status, bytes, faults."""
        assert self.log is not None, "the proxy was started without a log"
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _ask(self, method: str, what: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.control}{CONTROL}{what}", data=body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)


def _json(faults: Iterable[Fault]) -> str:
    return json.dumps([asdict(fault) for fault in faults])


if __name__ == "__main__":
    main()
