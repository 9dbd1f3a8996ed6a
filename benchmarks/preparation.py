"""Memory and disk of preparing documents to train on, as corpora grow.

Made-up texts: words drawn from a list, sentences of about 15 words, paragraphs of 1 to 6 sentences, documents of about
3,000 characters, in two sources: one JSONL.gz file, and folders of text files. They are prepared twice, the second
time with three times as much text, by two workers. "peak MiB of a worker" is the largest VmHWM (peak of the resident
memory) of a Ray worker, and "of the driver" that of the process that the command runs in.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import record
from jobs.train_text_segmenter import BLOCK_BYTES, BLOCK_DOCUMENTS
from pipeline.distributed.preparation import Preparation
from pipeline.distributed.session import session
from pipeline.runs.cluster import ClusterConfig
from pipeline.source.corpora import corpus
from pipeline.text.task import TextSegmentation

_DOCUMENT_CHARS = 3000
_FILES_IN_A_FOLDER = 500
_WATCH_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/preparation"), help="where corpora and samples go")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the smaller corpus")
    parser.add_argument("--small", action="store_true", help="3 and 9 MB: shows that it runs, not how memory grows")
    arguments = parser.parse_args()
    size = 3 if arguments.small else arguments.megabytes
    rows = []
    for megabytes in (size, 3 * size):
        work = arguments.work / str(megabytes)
        make_corpus(work / "corpus", megabytes)
        results = multiprocessing.get_context("spawn").Queue()
        # A process for each size, so that its peak of memory is its own.
        process = multiprocessing.get_context("spawn").Process(target=_prepare, args=(work, results))
        process.start()
        rows.append({"MB of text": megabytes} | results.get())
        process.join()
        shutil.rmtree(work)
    peaks = [row["peak MiB of a worker"] for row in rows]
    headline = {"worker_mib": peaks[-1], "growth_worker": peaks[1] / peaks[0]}
    record("preparation", rows, headline, __doc__ or "", small=arguments.small)


def make_corpus(folder: Path, megabytes: int) -> None:
    """Half of the text as one JSONL.gz file, half as text files in folders."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "texts").mkdir(parents=True)
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 9))) for _ in range(20_000)]
    count = megabytes * 1_000_000 // _DOCUMENT_CHARS
    with gzip.open(folder / "records.jsonl.gz", "wt", compresslevel=1) as file:
        for number in range(count):
            text = _document(words, chance)
            if number % 2:
                file.write(json.dumps({"text": text, "paragraphs": None, "doc_id": str(number)}) + "\n")
            else:
                place = folder / "texts" / str(number // _FILES_IN_A_FOLDER)
                place.mkdir(exist_ok=True)
                (place / f"{number}.txt").write_text(text)


def _document(words: list[str], chance: random.Random) -> str:
    paragraphs, size = [], 0
    while size < _DOCUMENT_CHARS:
        sentences = [" ".join(chance.choices(words, k=chance.randint(5, 25))) for _ in range(chance.randint(1, 6))]
        paragraphs.append(" ".join(f"{sentence.capitalize()}." for sentence in sentences))
        size += len(paragraphs[-1])
    return "\n\n".join(paragraphs)


def _prepare(work: Path, results: Any) -> None:
    started = time.perf_counter()
    found = corpus([str(work / "corpus" / name) for name in ("records.jsonl.gz", "texts")], (), TextSegmentation.inputs)
    listed = time.perf_counter()
    with session(ClusterConfig(cpus=2)), _watched() as peaks:
        preparation = Preparation(
            found.inputs,
            TextSegmentation(),
            str(work / "out"),
            block_rows=BLOCK_DOCUMENTS,
            block_bytes=BLOCK_BYTES,
            sources=found.sources,
        )
        prepared = preparation.prepare()
    on_disk = sum(file.stat().st_size for file in (work / "out").rglob("*.arrow"))
    results.put(
        {
            "documents": prepared.inputs,
            "samples": prepared.rows,
            "peak MiB of a worker": max(peaks.values()) / 1024,
            "peak MiB of the driver": _peak_kib(os.getpid()) / 1024,
            "GB of samples": on_disk / 1e9,
            "listing s": listed - started,
            "preparing s": time.perf_counter() - listed,
        }
    )


@contextlib.contextmanager
def _watched() -> Iterator[dict[int, int]]:
    """The largest VmHWM, in KiB, of each Ray worker below this process, while the ``with`` block runs."""
    peaks: dict[int, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            for process in _workers():
                peaks[process] = max(peaks.get(process, 0), _peak_kib(process))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peaks
    over.set()
    thread.join()


def _workers() -> list[int]:
    """Processes of Ray's workers in the session of this process' cluster."""
    parents, workers = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            number = int(place.name)
            parents[number] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if (place / "cmdline").read_bytes().startswith(b"ray::"):
                workers.append(number)
    return [number for number in workers if os.getpid() in _ancestors(number, parents)]


def _ancestors(number: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while number in parents and number not in found:
        found.add(number)
        number = parents[number]
    return found


def _peak_kib(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
