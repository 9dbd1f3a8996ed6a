"""Bulk document segmentation by ``builtin:paragraphs-en``: speed, where the time goes, and memory.

Speed: the books of split val as text files, from the files to the rows of a Parquet file, in one process with one
thread; processor time, so that other work on the machine counts little. The bound is reading the same files and
splitting them into sentences. Medians of runs in turn. Ray, its start and its copies between processes are not in it.

Parts: the same, step by step.

Memory: one text of 100 MB through prepare, predict and encode, each step in the same process; the peak is VmHWM, which
is the process's own, and is set back before the text is read.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.measures import document_sets
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.rows import INPUT_SCHEMA
from pipeline.text import task as text_task
from pipeline.text.inputs import split_sentences
from pipeline.text.reading import read_document
from pipeline.text.task import TextSegmentation

PARTS = ("speed", "steps", "memory")
MODEL = "builtin:paragraphs-en"
_MIB = 2**20
_BATCH = 16
#: Steps within prepare and predict that are timed, as names of `pipeline.text.task`.
_STEPS = ("read_document", "sentences_of", "sentence_features", "padded", "_logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--parts", nargs="+", choices=("speed", "steps", "memory"), default=("speed", "steps", "memory")
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the text whose memory is measured")
    parser.add_argument("--small", action="store_true", help="a tenth of the files, once, and a text of 10 MB")
    parser.add_argument("--measure-memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    torch.set_num_threads(1)
    texts = [document.text for document in document_sets.books(data, "val")][:: 10 if arguments.small else 1]
    if arguments.measure_memory is not None:
        print(*memory(texts, arguments.measure_memory))
        return
    rows: list[dict[str, Any]] = []
    headline: dict[str, Any] = {"chars_per_s_core": None, "ratio_to_bound": None, "peak_mib": None}
    with tempfile.TemporaryDirectory() as place:
        if "speed" in arguments.parts:
            found = speed(texts, Path(place), 1 if arguments.small else arguments.repeats)
            rows += found
            ours, bound = (row["characters a second and core"] for row in found)
            headline |= {"chars_per_s_core": ours, "ratio_to_bound": ours / bound}
    if "steps" in arguments.parts:
        rows += steps(texts)
    if "memory" in arguments.parts:
        row = measured_memory(10 if arguments.small else arguments.megabytes)
        rows.append(row)
        headline["peak_mib"] = row["peak MiB"]
    record("bulk_documents", rows, headline, __doc__ or "", small=arguments.small)


def speed(texts: list[str], place: Path, repeats: int) -> list[dict[str, Any]]:
    """Characters a second and core from files to rows, and of reading and splitting alone."""
    files = []
    for number, text in enumerate(texts):
        files.append(place / f"{number:04}.txt")
        files[-1].write_text(text)
    found = package.load(MODEL)
    task, model = config.from_dict(TextSegmentation, found.task), found.model()
    ours, bound = [], []
    for _ in range(repeats):
        times = [time.process_time()]
        for start in range(0, len(files), _BATCH):
            inputs = _inputs([file.read_bytes() for file in files[start : start + _BATCH]])
            prepared = task.prepare(inputs).drop(["error"])
            pq.write_table(task.encode(task.predict(model, prepared, torch.device("cpu"))), place / f"{start}.parquet")
        times.append(time.process_time())
        for file in files:
            split_sentences(read_document(file.read_bytes(), "object").text)
        times.append(time.process_time())
        for rates, begin, end in zip((ours, bound), times[:-1], times[1:], strict=True):
            rates.append(sum(map(len, texts)) / (end - begin))
    named = {"from files to rows": ours, "reading and splitting into sentences": bound}
    return [
        {"part": name, "characters a second and core": statistics.median(rates), "all": rates}
        for name, rates in named.items()
    ]


def steps(texts: list[str]) -> list[dict[str, Any]]:
    """Nanoseconds a character of each step in this process."""
    found = package.load(MODEL)
    task, model = config.from_dict(TextSegmentation, found.task), found.model()
    inner: dict[str, float] = dict.fromkeys(_STEPS, 0.0)
    outer: dict[str, float] = dict.fromkeys(("prepare", "predict", "encode"), 0.0)
    with _timed(inner):
        for start in range(0, len(texts), _BATCH):
            inputs = _inputs(texts[start : start + _BATCH])
            times = [time.process_time()]
            prepared = task.prepare(inputs).drop(["error"])
            times.append(time.process_time())
            predicted = task.predict(model, prepared, torch.device("cpu"))
            times.append(time.process_time())
            task.encode(predicted)
            times.append(time.process_time())
            for name, begin, end in zip(outer, times[:-1], times[1:], strict=True):
                outer[name] += end - begin
    characters = sum(map(len, texts))
    parts = [("prepare", None), *(("prepare", name) for name in _STEPS[:3]), ("predict", None)]
    parts += [*(("predict", name) for name in _STEPS[3:]), ("encode", None)]
    return [
        {
            "part": " / ".join(filter(None, part)),
            "ns a character": 1e9 * (inner | outer)[part[1] or part[0]] / characters,
        }
        for part in parts
    ]


@contextmanager
def _timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of functions of `pipeline.text.task` while the block runs."""
    originals = {name: getattr(text_task, name) for name in seconds}

    def timing(name: str) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            started = time.process_time()
            result = originals[name](*given, **named)
            seconds[name] += time.process_time() - started
            return result

        return called

    for name in seconds:
        setattr(text_task, name, timing(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(text_task, name, original)


def measured_memory(megabytes: int) -> dict[str, Any]:
    """What `memory` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bulk_documents", "--measure-memory", str(megabytes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    before, peak, seconds = map(float, done.stdout.split())
    return {"part": f"text of {megabytes} MB", "MiB before": before, "peak MiB": peak, "seconds": seconds}


def memory(texts: list[str], megabytes: int) -> tuple[float, float, float]:
    """Resident MiB before a text of this size is read, and at the peak; seconds from bytes to row."""
    found = package.load(MODEL)
    task, model = config.from_dict(TextSegmentation, found.task), found.model()
    data = " ".join(texts).encode()
    data = (data * (megabytes * 10**6 // len(data) + 1))[: megabytes * 10**6].decode(errors="ignore").encode()
    texts.clear()
    before = _resident()["VmRSS"] - len(data) / _MIB
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back (Linux)
    started = time.process_time()
    inputs = _inputs([data])
    del data
    prepared = task.prepare(inputs).drop(["error"])
    del inputs
    predicted = task.predict(model, prepared, torch.device("cpu"))
    del prepared
    assert task.encode(predicted).num_rows == 1
    return before, _resident()["VmHWM"], time.process_time() - started


def _inputs(texts: list[Any]) -> pa.Table:
    contents = [text if isinstance(text, bytes) else text.encode() for text in texts]
    rows = {"data": contents, "format": ["object"] * len(contents), "label": [None] * len(contents)}
    return pa.table(rows, schema=INPUT_SCHEMA)


def _resident() -> dict[str, float]:
    """The memory of this process in MiB: now, and its peak."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 / _MIB for line in lines if line[0] in ("VmRSS:", "VmHWM:")}


if __name__ == "__main__":
    main()
