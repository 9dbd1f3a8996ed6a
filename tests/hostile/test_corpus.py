"""Every hostile file gets what the table says: its rows, their pixels or texts, or the one right code."""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ERROR_CODES
from pipeline.images.task import ImageSegmentation
from pipeline.rows import INPUT_SCHEMA
from pipeline.task import Task
from pipeline.text.task import TextSegmentation
from testing.hostile.corpus import CASES, HEIGHT, WIDTH, Case, Row, encoded, peak_mib, quarters
from testing.hostile.mutants import mutant
from testing.processes import ROOT

TASKS: dict[str, Task] = {
    # The box is the size of most pictures, so that they are not scaled.
    "image": ImageSegmentation(
        classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), height_px=HEIGHT, width_px=WIDTH, max_pixels=100_000_000
    ),
    "document": TextSegmentation(),
}
#: A file that takes longer hangs; the slowest takes a few seconds.
HANG_S = 300.0

SMALL = [case for case in CASES if not case.heavy]
HEAVY = [case for case in CASES if case.heavy]


def members(name: str, data: bytes) -> tuple[str, list[tuple[str | None, bytes]]]:
    """The format of a file's inputs, and each with its member, as `pipeline.source.entries` cuts them: a JSONL file
    is its lines that are not blank, by number from 1; any other is one input."""
    if not name.endswith(".jsonl"):
        return TextSegmentation.inputs.format_of(name), [(None, data)]
    return "json", [(str(number), line) for number, line in enumerate(BytesIO(data), 1) if line.strip()]


def read(kind: str, path: Path) -> list[dict[str, Any]]:
    """What `prepare` makes of the inputs in a file."""
    form, found = members(path.name, path.read_bytes())
    columns = {"data": [data for _, data in found], "format": [form] * len(found), "label": [None] * len(found)}
    names = [member for member, _ in found]
    inputs = pa.table(columns, INPUT_SCHEMA)
    del columns, found
    table = TASKS[kind].prepare(inputs)
    assert table.num_rows == len(names)
    return [{"member": member} | _plain(table, row) for row, member in enumerate(names)]


def _plain(table: pa.Table, row: int) -> dict[str, Any]:
    """What is checked of a prepared row, small enough to be printed."""
    found: dict[str, Any] = {"error": table["error"][row].as_py()}
    if found["error"] is not None:
        return found
    if "image" in table.column_names:
        valid = [table[name][row].as_py() for name in ("valid_height", "valid_width")]
        pixels = np.frombuffer(table["image"][row].as_buffer(), np.uint8).reshape(HEIGHT, WIDTH, 3)
        inside = pixels[: valid[0], : valid[1]].astype(float)
        found["size"] = [table[name][row].as_py() for name in ("height", "width")]
        found["colours"] = [part.mean((0, 1)).tolist() for part in _quarters(inside)]
        return found
    starts = table["starts"][row].values.to_numpy()
    found |= {name: table[name][row].as_py() for name in ("num_chars", "text_sha256", "encoding")}
    found["tiles"] = bool(starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < found["num_chars"])
    found["counts"] = len(table["counts"][row].values) == len(starts)
    return found


def _quarters(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Without their edges, where a lossy format mixes neighbours; of a single row or column, that."""
    height, width = max(1, pixels.shape[0] // 2), max(1, pixels.shape[1] // 2)
    for top in (0, pixels.shape[0] - height):
        for left in (0, pixels.shape[1] - width):
            part = pixels[top : top + height, left : left + width]
            margin = [2 if size > 8 else 0 for size in part.shape[:2]]
            yield part[margin[0] : part.shape[0] - margin[0], margin[1] : part.shape[1] - margin[1]]


def check(rows: list[dict[str, Any]], expected: tuple[Row, ...]) -> None:
    assert [row["member"] for row in rows] == [row.member for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        code = row["error"] and row["error"]["code"]
        assert code in (None, *ERROR_CODES)
        assert code == wanted.error, row["error"]
        if wanted.error is not None:
            assert "0x" not in row["error"]["message"]
        elif wanted.size is not None:
            assert tuple(row["size"]) == wanted.size
            if wanted.colours is not None:
                np.testing.assert_allclose(row["colours"], wanted.colours, atol=wanted.tolerance)
        else:
            assert row["num_chars"] == (wanted.num_chars if wanted.text is None else len(wanted.text))
            assert wanted.digest in (None, row["text_sha256"])
            assert wanted.encoding in (None, row["encoding"])
            assert row["tiles"], "sentences, and so paragraphs, tile the text"
            assert row["counts"]


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A hang in native code has no Python frame to interrupt: the process says where it is, and ends."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.kind + " " + ascii(case.name))
def test_small(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case.make())
    check(read(case.kind, path), case.expect)


def test_names_are_unique_and_every_case_is_small_or_heavy() -> None:
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) == len(SMALL) + len(HEAVY)


#: Most memory above that of the process with its libraries, in MiB, for a file of 100 megapixels or about 100 MB. An
#: image may take 14 bytes a pixel: four for what Pillow decodes, four for its opaque or upright copy, and the rest for
#: the file and its copy, a mask, or the coefficients of a progressive JPEG. A document may take 30 times its bytes:
#: itself, its text and copies of both, and its features, some 240 bytes a sentence and 4 a word, and what they are made
#: from.
LIMITS_MIB = {"image": 14 * 100_000_000 / 2**20, "document": 30 * 100_000_000 / 2**20}


#: The others take longer.
QUICK = ("100 MB, one character too long.txt",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.name in QUICK else pytest.mark.heavy) for case in HEAVY],
    ids=lambda case: case.kind + " " + ascii(case.name),
)
def test_heavy(case: Case, tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is its own."""
    path = tmp_path / case.name
    path.write_bytes(case.make())
    command = [sys.executable, "-m", "tests.hostile.test_corpus", case.kind, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    check(found["rows"], case.expect)
    assert found["peak_mib"] < LIMITS_MIB[case.kind], found["peak_mib"]


@pytest.mark.slow
def test_changed_files_neither_crash_nor_hang() -> None:
    """The small version of the fuzzer; it ends with 1 where anything is wrong."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz-small.json").read_text())
    assert found["headline"]["files"] == 500


def test_a_file_of_the_fuzzer_can_be_made_again() -> None:
    files = {"image": [b"P5 1 1 255 a", encoded(quarters(), "PNG")], "document": [b"One. Two."]}
    for number in range(50):
        assert mutant(files, 3, number) == mutant(files, 3, number)


def main() -> None:
    before = peak_mib()
    rows = read(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({"rows": rows, "peak_mib": peak_mib() - before}))


if __name__ == "__main__":
    main()
