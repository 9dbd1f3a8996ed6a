"""Downloads and listings of S3: ours beside obstore, botocore, s3fs and pyarrow.

All ask the same Ceph on this machine, which takes most of the processors itself, so GETs per second say less than the
processor time that each client needs for one. Each client runs in a fresh process; those of a round follow each other,
in another order in every round, and the medians of the rounds stand in the rows. A client reads some objects first,
which are not counted. Ours checks tags and lengths, which the others do not.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.record import record
from testing.s3 import ceph
from testing.s3.fixtures import applied, client

THREADS = 16
WARM_UP = 32
BUCKET = "bench"
BYTES = 40_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--objects", type=int, default=2000, help="objects of 40 KB to download")
    parser.add_argument("--keys", type=int, default=20_000, help="keys to list")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="300 objects, 2,000 keys, one round")
    parser.add_argument("--arm", nargs=3, metavar=("WHAT", "CLIENT", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        what, name, count = arguments.arm
        print(json.dumps((GETS if what == "fetch" else LISTS)[name](int(count))))
        return
    found, why = ceph.available()
    if not found:
        sys.exit(why)
    small = arguments.small
    objects, keys, rounds = (300, 2000, 1) if small else (arguments.objects, arguments.keys, arguments.rounds)
    with ceph.Ceph() as server, applied(server.endpoint):
        fill(server.endpoint, objects, keys)
        rows = measure(objects, keys, rounds)
    rates = {(row["what"], row["client"]): row["per s"] for row in rows}
    costs = {(row["what"], row["client"]): row["processor ms each"] for row in rows}
    headline = {
        "fetch_to_obstore": rates["fetch", "ours"] / rates["fetch", "obstore"],
        "fetch_to_s3fs": rates["fetch", "ours"] / rates["fetch", "s3fs"],
        "list_to_s3fs": rates["list", "ours"] / rates["list", "s3fs"],
        "fetch_processor_to_obstore": costs["fetch", "ours"] / costs["fetch", "obstore"],
        "fetch_processor_to_botocore": costs["fetch", "ours"] / costs["fetch", "botocore"],
        "list_processor_to_botocore": costs["list", "ours"] / costs["list", "botocore"],
    }
    protocol = f"{objects} objects of {BYTES} bytes, {THREADS} at a time; {keys} keys; {rounds} rounds. {__doc__}"
    record("downloads", rows, headline, protocol, small=small)


def fill(endpoint: ceph.Endpoint, objects: int, keys: int) -> None:
    draw, s3 = random.Random(0), client(endpoint)
    s3.create_bucket(Bucket=BUCKET)
    bodies = [draw.randbytes(BYTES) for _ in range(16)]
    with ThreadPoolExecutor(THREADS) as pool:
        put = functools.partial(s3.put_object, Bucket=BUCKET)
        list(pool.map(lambda n: put(Key=f"objects/{n:06d}.jpg", Body=bodies[n % 16]), range(objects)))
        list(pool.map(lambda n: put(Key=f"keys/{n % 17:02d}/{n:08d}.jpg", Body=b"x"), range(keys)))


def measure(objects: int, keys: int, rounds: int) -> list[dict[str, Any]]:
    plan = [("fetch", name, objects) for name in GETS] + [("list", name, keys) for name in LISTS]
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        for what, name, count in plan if number % 2 == 0 else plan[::-1]:
            command = [sys.executable, "-m", "benchmarks.downloads", "--arm", what, name, str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.setdefault((what, name), []).append(json.loads(done.stdout.splitlines()[-1]))
    return [
        {"what": what, "client": name} | {key: statistics.median(item[key] for item in items) for key in items[0]}
        for (what, name), items in results.items()
    ]


def timed(run: Callable[[], Any], count: int) -> dict[str, float]:
    """Things per second, and this process's own processor time for each."""
    before, began = _processor_s(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return {"per s": count / seconds, "processor ms each": (_processor_s() - before) / count * 1000}


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_threads(get: Callable[[int], bytes], count: int) -> dict[str, float]:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(get, range(min(count, WARM_UP))))

        def run() -> None:
            for data in pool.map(get, range(count)):
                assert len(data) == BYTES

        return timed(run, count)


def key_of(number: int) -> str:
    return f"objects/{number:06d}.jpg"


def get_ours(count: int) -> dict[str, float]:
    from pipeline import storage

    tags = {uri: tag for uri, tag in _listed_by_us("objects") if uri}
    folder = f"s3://{BUCKET}/"

    def get(number: int) -> bytes:
        uri = folder + key_of(number)
        return storage.fetch(uri, storage.Read(etag=tags[uri], max_bytes=1 << 20))

    return in_threads(get, count)


def get_obstore(count: int) -> dict[str, float]:
    import obstore

    store = _obstore()
    return in_threads(lambda number: bytes(obstore.get(store, key_of(number)).bytes()), count)


def get_botocore(count: int) -> dict[str, float]:
    s3 = client(_endpoint())
    return in_threads(lambda number: s3.get_object(Bucket=BUCKET, Key=key_of(number))["Body"].read(), count)


def get_s3fs(count: int) -> dict[str, float]:
    import s3fs

    async def measured() -> dict[str, float]:
        files = s3fs.S3FileSystem(asynchronous=True, config_kwargs={"max_pool_connections": THREADS})
        session = await files.set_session()

        async def some(numbers: Sequence[int]) -> None:
            waiting = iter(numbers)

            async def worker() -> None:
                for number in waiting:
                    assert len(await files._cat_file(f"{BUCKET}/{key_of(number)}")) == BYTES

            await asyncio.gather(*(worker() for _ in range(THREADS)))

        await some(range(min(count, WARM_UP)))
        before, began = _processor_s(), time.perf_counter()
        await some(range(count))
        seconds, used = time.perf_counter() - began, _processor_s() - before
        await session.close()
        return {"per s": count / seconds, "processor ms each": used / count * 1000}

    return asyncio.run(measured())


def get_pyarrow(count: int) -> dict[str, float]:
    import pyarrow.fs

    endpoint = _endpoint()
    files = pyarrow.fs.S3FileSystem(endpoint_override=endpoint.url, region=endpoint.region)

    def get(number: int) -> bytes:
        with files.open_input_stream(f"{BUCKET}/{key_of(number)}") as file:
            return file.read()

    return in_threads(get, count)


def list_ours(count: int) -> dict[str, float]:
    return _timed_list(lambda: sum(1 for _ in _listed_by_us("keys")), count)


def list_obstore(count: int) -> dict[str, float]:
    import obstore

    store = _obstore()
    return _timed_list(lambda: sum(len(page) for page in obstore.list(store, "keys", chunk_size=1000)), count)


def list_obstore_arrow(count: int) -> dict[str, float]:
    import obstore

    store = _obstore()

    def run() -> int:
        return sum(page.num_rows for page in obstore.list(store, "keys", chunk_size=1000, return_arrow=True))

    return _timed_list(run, count)


def list_botocore(count: int) -> dict[str, float]:
    s3 = client(_endpoint())

    def run() -> int:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="keys/")
        return sum(len(page["Contents"]) for page in pages)

    return _timed_list(run, count)


def list_s3fs(count: int) -> dict[str, float]:
    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False)
    return _timed_list(lambda: len(files.find(f"{BUCKET}/keys", detail=True)), count)


def _timed_list(run: Callable[[], int], count: int) -> dict[str, float]:
    def checked() -> None:
        assert run() == count

    run()
    return timed(checked, count)


def _listed_by_us(folder: str) -> list[tuple[str, str]]:
    from pipeline import storage

    pages = list(storage.walk(f"s3://{BUCKET}/{folder}"))
    return [pair for page in pages for pair in zip(page["uri"].to_pylist(), page["etag"].to_pylist(), strict=True)]


def _obstore() -> Any:
    from obstore.store import S3Store

    endpoint = _endpoint()
    return S3Store(
        BUCKET,
        endpoint=endpoint.url,
        region=endpoint.region,
        access_key_id=endpoint.access_key,
        secret_access_key=endpoint.secret_key,
        client_options={"allow_http": True},
    )


def _endpoint() -> ceph.Endpoint:
    return ceph.Endpoint(
        url=os.environ["AWS_ENDPOINT_URL"],
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )


GETS = {
    "ours": get_ours,
    "obstore": get_obstore,
    "botocore": get_botocore,
    "s3fs": get_s3fs,
    "pyarrow": get_pyarrow,
}
LISTS = {
    "ours": list_ours,
    "obstore": list_obstore,
    "obstore, Arrow": list_obstore_arrow,
    "botocore": list_botocore,
    "s3fs": list_s3fs,
}


if __name__ == "__main__":
    main()
