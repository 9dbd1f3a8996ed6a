"""Listing a bucket of a million keys: ours alone, then into a manifest, then minus what a table already holds.

The bucket is made up: server processes answer ListObjectsV2 from a formula and hold no list, so any number of keys
fits; they share the machine with what is measured. Each figure comes from a fresh process, whose own processor time and
largest resident memory are told. Memory at a quarter of the keys and at all of them gives the growth for each key. The
ledger is a local table of rows that have only the columns every table has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from benchmarks.record import record

BUCKET = "made-up"
SHARD_KEYS = 10_000  # keys in a folder
SERVERS = 2
PART_ROWS = (128, 4096)
MODEL, SETTINGS, RUN = "m" * 16, "s" * 16, "20260101T000000-listing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--latency_ms", type=float, default=0.0, help="before every answer, as of a store far away")
    parser.add_argument("--small", action="store_true", help="50,000 keys")
    parser.add_argument("--arm", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        name, *values = arguments.arm
        print(json.dumps(in_process(name, *values)))
        return
    keys = 50_000 if arguments.small else arguments.keys
    work = Path(tempfile.mkdtemp(prefix="listing-"))
    try:
        rows = measure(work, keys, arguments.latency_ms / 1000)
    finally:
        shutil.rmtree(work)
    found = {(row["what"], row["keys"]): row for row in rows}
    part, rest = keys // 4, keys - keys // 4

    def growth(what: str) -> float:
        return (found[what, keys]["peak MiB"] - found[what, part]["peak MiB"]) * 2**20 / rest

    walk, manifest = found["walk", keys], found["manifest", keys]
    again, done = found["manifest, all done", keys], found[f"done, parts of {PART_ROWS[-1]}", keys]
    billion = 10**9
    on_paper = {
        "hours to list 10^9": billion / walk["per s"] / 3600,
        "hours to list 10^9 into a manifest": billion / manifest["per s"] / 3600,
        "hours to read a table of 10^9": billion / done["per s"] / 3600,
        "hours to list 10^9 that are all done": billion / again["per s"] / 3600,
        "GiB of memory for a manifest of 10^9": billion * growth("manifest") / 2**30,
        "GiB of memory for a manifest and a ledger of 10^9": billion * growth("manifest, all done") / 2**30,
    }
    rows += [{"what": f"on paper: {what}", "value": value} for what, value in on_paper.items()]
    headline = {
        "keys_per_s": walk["per s"],
        "manifest_keys_per_s": manifest["per s"],
        "done_keys_per_s": done["per s"],
        "bytes_per_key": growth("manifest"),
        "bytes_per_key_with_ledger": growth("manifest, all done"),
    }
    protocol = f"{keys} keys, {SERVERS} server processes, {arguments.latency_ms} ms latency, one run. {__doc__}"
    record("listing", rows, headline, protocol, small=arguments.small)


def measure(work: Path, keys: int, latency_s: float) -> list[dict[str, Any]]:
    rows = []
    for count in (keys // 4, keys):
        with Servers(count, latency_s) as url:

            def arm(name: str, *values: object, count: int = count, url: str = url) -> None:
                command = [sys.executable, "-m", "benchmarks.listing", "--arm", name, str(count), *map(str, values)]
                environment = os.environ | {
                    "AWS_ENDPOINT_URL": url,
                    "AWS_ACCESS_KEY_ID": "nobody",
                    "AWS_SECRET_ACCESS_KEY": "nothing",
                    "AWS_REGION": "us-east-1",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_CONFIG_FILE": os.devnull,
                    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                }
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                for row in json.loads(done.stdout.splitlines()[-1]):
                    rows.append(row)
                    print(json.dumps(row), flush=True)

            arm("walk")
            arm("manifest", work / f"run-{count}")
            for part_rows in PART_ROWS:
                sink = work / f"sink-{count}-{part_rows}"
                arm("table", sink, part_rows)
                arm("done", sink, part_rows)
            arm("again", work / f"again-{count}", work / f"sink-{count}-{PART_ROWS[-1]}")
    return rows


def in_process(name: str, count: str, *values: str) -> list[dict[str, Any]]:
    """What the fresh process does."""
    return {"walk": run_walk, "manifest": run_manifest, "table": run_table, "done": run_done, "again": run_again}[name](
        int(count), *values
    )


def timed(what: str, count: int, run: Callable[[], Any]) -> dict[str, Any]:
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "what": what,
        "keys": count,
        "s": seconds,
        "per s": count / seconds,
        "processor us each": (used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / count * 1e6,
        "peak MiB": used.ru_maxrss / 1024,
    }


def run_walk(count: int) -> list[dict[str, Any]]:
    from pipeline import storage

    assert storage.is_folder(f"s3://{BUCKET}/data")  # makes the client

    def run() -> None:
        assert sum(page.num_rows for page in storage.walk(f"s3://{BUCKET}/data")) == count

    return [timed("walk", count, run)]


def run_manifest(count: int, folder: str) -> list[dict[str, Any]]:
    from pipeline import storage
    from pipeline.rows import InputKind
    from pipeline.source.entries import entries
    from pipeline.source.keys import KeySet
    from pipeline.table.manifest import Manifest

    manifest = Manifest(folder)
    assert storage.is_folder(f"s3://{BUCKET}/data")  # makes the client

    def run() -> None:
        manifest.write(entries([f"s3://{BUCKET}/data"], InputKind(suffixes=(".jpg",))), KeySet(), None)
        assert (manifest.pending, manifest.repeated) == (count, 0)

    sets = timed("key sets of the manifest", count, lambda: (manifest.inputs(), manifest.versions()))
    return [timed("manifest", count, run), sets]


def run_table(count: int, sink: str, part_rows: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    from pipeline.storage.threads import ordered
    from pipeline.table.delta import Table
    from pipeline.table.parts import Part, write_part
    from pipeline.table.schema import TableSchema

    table = Table(sink, TableSchema.of(pa.schema([("value", pa.int32())]), result="value"))
    table.create()

    def write(start: int) -> Part:
        numbers = range(start, min(count, start + int(part_rows)))
        size = len(numbers)
        columns: dict[str, Any] = {
            "uri": [f"s3://{BUCKET}/{key_of(number)}" for number in numbers],
            "member": pa.nulls(size, pa.string()),
            "etag": [tag_of(number) for number in numbers],
            "size": [1000 + number % 977 for number in numbers],
            "value": [1] * size,
            "model": [MODEL] * size,
            "settings": [SETTINGS] * size,
            "run_id": [RUN] * size,
            "error": pa.nulls(size, table.schema.columns.field("error").type),
        }
        return write_part(table.uri, table.schema, pa.table(columns), RUN, MODEL)

    def run() -> None:
        parts = list(ordered(write, range(0, count, int(part_rows)), 8))
        for start in range(0, len(parts), 2000):
            table.commit(parts[start : start + 2000], run_id=RUN)

    return [timed(f"write parts of {part_rows}", count, run)]


def run_done(count: int, sink: str, part_rows: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    from pipeline.source.keys import VERSION_KEY, keys
    from pipeline.table.delta import Table
    from pipeline.table.schema import TableSchema

    schema = TableSchema.of(pa.schema([("value", pa.int32())]), result="value")
    held: list[Any] = []

    def read() -> None:
        found = Table(sink, schema).contents(MODEL, SETTINGS)
        assert (len(found.sound), len(found.failed)) == (count, 0)
        held.append(found.done(retry_errors=False))

    rows = [timed(f"done, parts of {part_rows}", count, read)]
    numbers = range(0, count, max(1, count // 200_000))
    wanted = pa.table(
        {
            "uri": [f"s3://{BUCKET}/{key_of(number)}" for number in numbers],
            "member": pa.nulls(len(numbers), pa.string()),
            "etag": [tag_of(number) for number in numbers],
        }
    )
    hashed: list[Any] = []
    rows.append(timed("hash of a key", len(numbers), lambda: hashed.append(keys(wanted, VERSION_KEY))))

    def subtract() -> None:
        for start in range(0, len(numbers), 8192):
            assert held[0].contains(hashed[0][start : start + 8192]).all()

    rows.append(timed(f"is it among {count}", len(numbers), subtract))
    return rows


def run_again(count: int, folder: str, sink: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    from pipeline.rows import InputKind
    from pipeline.source.entries import entries
    from pipeline.table.delta import Table
    from pipeline.table.manifest import Manifest
    from pipeline.table.schema import TableSchema

    manifest = Manifest(folder)
    held = Table(sink, TableSchema.of(pa.schema([("value", pa.int32())]), result="value")).contents(MODEL, SETTINGS)

    def run() -> None:
        manifest.write(
            entries([f"s3://{BUCKET}/data"], InputKind(suffixes=(".jpg",))), held.done(retry_errors=False), None
        )
        assert (manifest.listed, manifest.pending) == (count, 0)
        assert not held.outdated(manifest.inputs(), manifest.pending)

    return [timed("manifest, all done", count, run)]


def key_of(number: int) -> str:
    """Keys that sort as their numbers do."""
    return f"data/{number // SHARD_KEYS:06d}/{number:012d}.jpg"


def tag_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def first_from(text: str, count: int, inclusive: bool) -> int:
    """The number of the first key that is not before (or: that is after) a string."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        key = key_of(middle)
        if key < text or (key == text and not inclusive):
            low = middle + 1
        else:
            high = middle
    return low


def answer(query: dict[str, list[str]], count: int) -> bytes:
    """ListObjectsV2 with what our clients read of it. In these keys nothing needs an encoding in a URL."""

    def value(name: str, default: str = "") -> str:
        return query.get(name, [default])[0]

    prefix, limit = value("prefix"), min(1000, int(value("max-keys", "1000")))
    after = value("continuation-token") or value("start-after")
    start = max(first_from(prefix, count, True), first_from(after, count, False) if after else 0)
    end = first_from(prefix + "\U0010ffff", count, True) if prefix else count
    numbers = range(start, max(start, min(end, start + limit)))
    parts = [
        f"<Contents><Key>{key_of(number)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{tag_of(number)}&quot;</ETag><Size>{1000 + number % 977}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for number in numbers
    ]
    more = bool(numbers) and numbers[-1] + 1 < end
    token = f"<NextContinuationToken>{key_of(numbers[-1])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><MaxKeys>{limit}</MaxKeys>"
        f"<KeyCount>{len(numbers)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{'<EncodingType>url</EncodingType>' if value('encoding-type') else ''}{token}{''.join(parts)}"
        "</ListBucketResult>"
    ).encode()


def serve(listener: socket.socket, count: int, latency_s: float) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_talk, args=(connection, count, latency_s), daemon=True).start()


def _talk(connection: socket.socket, count: int, latency_s: float) -> None:
    with connection, connection.makefile("rb") as lines:
        while head := lines.readline():
            while lines.readline() not in (b"\r\n", b""):
                pass
            if latency_s:
                time.sleep(latency_s)
            query = head.split()[1].decode().partition("?")[2]
            body = answer(parse_qs(query, keep_blank_values=True), count)
            lengths = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + lengths.encode() + body)
            except OSError:  # a client that has seen enough
                return


class Servers:
    """Processes that answer for the made-up bucket on one port of 127.0.0.1."""

    def __init__(self, count: int, latency_s: float) -> None:
        self._arguments = (count, latency_s)

    def __enter__(self) -> str:
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        # Forked before any thread is started, so that they share the listening socket.
        context = multiprocessing.get_context("fork")
        self._processes = [
            context.Process(target=serve, args=(listener, *self._arguments), daemon=True) for _ in range(SERVERS)
        ]
        for process in self._processes:
            process.start()
        with listener:
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()


if __name__ == "__main__":
    main()
