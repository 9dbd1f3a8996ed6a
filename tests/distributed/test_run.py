"""Runs of the stream on a local cluster, with an untrained model: what a table holds after each."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

from pipeline import package
from pipeline.distributed import stages, stream
from pipeline.distributed.places import mark
from pipeline.distributed.run import block_rows
from pipeline.errors import JobFailed, RequestError
from pipeline.images.outputs import decode_mask
from pipeline.quality.audit import audit
from pipeline.quality.report import Described, run_report
from pipeline.runs.committer import Committer
from pipeline.runs.counts import RunCounts
from pipeline.runs.device import Device
from pipeline.runs.plan import StreamConfig
from pipeline.source.containers import ENTRIES
from pipeline.source.fetch import FetchConfig
from pipeline.table import compaction
from pipeline.table.delta import Table
from pipeline.table.readers import open_delta, parts_of
from pipeline.table.schema import TableSchema
from testing import broken_images
from testing.equality import assert_equal_tables, table_rows
from testing.processes import descendants
from testing.runs import TASK, new_run, run, write_images, write_package

pytestmark = pytest.mark.ray
PLAN_SCHEMA = TableSchema.of(
    TASK.schema, result=TASK.result, huggingface_features=TASK.huggingface_features, stored_as_is=TASK.stored_as_is
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_package(tmp_path_factory.mktemp("package"), 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("source") / "images", 40)


@pytest.fixture(scope="module")
def reference(cluster: None, images: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of an uninterrupted run: one actor, one row in a batch."""
    sink = tmp_path_factory.mktemp("reference")
    done = run(images, model, sink, stream={"batch_rows": 1})
    assert (done.summary["done"], done.summary["failed"]) == (40, 0)
    return sink


def test_every_image_has_a_mask_of_its_own_size(reference: Path, images: Path) -> None:
    rows = table_rows(str(reference))
    assert [row["uri"] for row in rows] == sorted(str(path) for path in images.iterdir())
    for row in rows:
        with Image.open(row["uri"]) as picture:
            assert (row["width"], row["height"]) == picture.size
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"])
        assert np.bincount(mask.ravel(), minlength=3).tolist() == row["class_pixels"]
        assert row["error"] is None


def test_results_ignore_scheduling(reference: Path, images: Path, model: str, tmp_path: Path) -> None:
    run(images, model, tmp_path, stream={"batch_rows": 4, "actors": 2, "block_rows": 5})
    assert_equal_tables(str(reference), str(tmp_path))


def test_a_finished_run_again_fetches_nothing(
    reference: Path, images: Path, model: str, tmp_path: Path, part_reads: list[str]
) -> None:
    shutil.copytree(reference, tmp_path / "sink")
    again = run(images, model, tmp_path / "sink")
    assert {again.summary[name] for name in ("pending", "done", "failed", "fetched_bytes", "removed")} == {0}
    assert again.summary["skipped"] == 40
    assert sorted(part_reads) == sorted(open_delta(str(tmp_path / "sink")).file_uris()), "each part is read once"
    assert len(part_reads) >= 3


def test_limit_other_folders_and_changes_take_nothing_away(
    cluster: None, model: str, tmp_path: Path, reference: Path
) -> None:
    sink = tmp_path / "sink"
    first = write_images(tmp_path / "first", 12)
    second = write_images(tmp_path / "second", 6, seed=1)
    assert run(first, model, sink, limit=5).summary["done"] == 5
    assert run(second, model, sink).summary["done"] == 6
    assert run(first, model, sink, limit=4).summary["done"] == 4
    assert len(table_rows(str(sink))) == 15
    whole = run(first, model, sink)
    assert (whole.summary["done"], whole.summary["skipped"], whole.summary["removed"]) == (3, 9, 0)
    # One changes, one is new: two inputs of work, and one older row leaves.
    Image.new("RGB", (7, 9)).save(first / "0003.png")
    Image.new("RGB", (5, 5)).save(first / "new.png")
    changed = run(first, model, sink)
    assert (changed.summary["done"], changed.summary["removed"]) == (2, 1)
    rows = table_rows(str(sink))
    assert len(rows) == len({row["uri"] for row in rows}) == 19
    assert next((r["width"], r["height"]) for r in rows if r["uri"].endswith("first/0003.png")) == (7, 9)
    # Another model redoes what its run lists; the other folder keeps its rows of the first model.
    other = write_package(tmp_path / "other", 1)
    assert run(first, other, sink).summary["removed"] == 13
    models = {(Path(row["uri"]).parent.name, row["model"]) for row in table_rows(str(sink))}
    assert models == {("first", package.load(other).digest), ("second", package.load(model).digest)}


def test_a_model_that_changes_between_attempts_is_never_mixed(
    cluster: None, images: Path, model: str, tmp_path: Path
) -> None:
    sink = tmp_path / "sink"
    run(images, model, sink, limit=15)
    other = write_package(tmp_path / "other", 1)
    second = run(images, other, sink)
    assert (second.summary["pending"], second.summary["done"], second.summary["removed"]) == (40, 40, 15)
    rows = table_rows(str(sink))
    assert len(rows) == 40
    assert {row["model"] for row in rows} == {package.load(other).digest}
    # A package that changes while it is read from stops the run, and nothing of it is mixed in.
    (tmp_path / "changing").mkdir()
    shutil.copytree(other, tmp_path / "changing" / "package")
    described = package.load(str(tmp_path / "changing" / "package"))
    shutil.rmtree(tmp_path / "changing" / "package")
    write_package(tmp_path / "changing" / "package", 2)
    job = new_run([write_images(tmp_path / "more", 6, seed=3)], described, sink, stall_timeout_s=60)
    assert job.live().exit_code == 1
    assert re.search(r"changed during the run|no row after", job.summary["error"])
    assert {row["model"] for row in table_rows(str(sink))} == {described.digest}
    assert len(table_rows(str(sink))) == 40


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_joins_its_many_small_files(
    reference: Path, images: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def wrong(*_: object) -> None:
        raise JobFailed("other programs have changed the table")

    if fails:
        monkeypatch.setattr(compaction, "_commit", wrong)
    monkeypatch.setattr(compaction, "MANY", 10)
    done = run(images, model, tmp_path / "never", stream={"block_rows": 4}, compact="never")
    assert (len(parts_of(str(tmp_path / "never"))), "compacted" in done.summary) == (10, False)
    done = run(images, model, tmp_path, stream={"block_rows": 4})
    found = {} if fails else {"compacted": {"before": 10, "after": 1, "rows": 40}}
    assert (done.summary["status"], done.summary["done"], done.summary["orphans"]) == ("done", 40, 0)
    assert {name: value for name, value in done.summary.items() if name == "compacted"} == found
    assert len(parts_of(str(tmp_path))) == (10 if fails else 1)
    assert len(list(tmp_path.glob("table/model=*/*.parquet"))) == (10 if fails else 11)
    assert_equal_tables(str(reference), str(tmp_path))
    assert audit(str(tmp_path)).summary()["problems"] == {}
    described = Described(sink=str(tmp_path), run_id=done.run_id, task=TASK, timeline=done.timeline.described())
    page = Path(run_report(described, done.summary)).read_text()
    assert "<dt>Done</dt><dd>40</dd>" in page
    # A sample of 24 and the 8 most uncertain, each with its image and its mask.
    assert page.count("<img") == 2 * (24 + 8)
    again = run(images, model, tmp_path).summary
    assert (again["skipped"], again["pending"]) == (40, 0)


def test_errors_are_rows_and_can_be_retried(cluster: None, model: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    os.symlink(tmp_path / "nowhere", folder / "link.png")
    os.symlink(tmp_path, folder / "folder.png", target_is_directory=True)
    (folder / "ignored.txt").write_text("no image by its name")
    (folder / "folder.png").unlink()
    sink = tmp_path / "sink"
    first = run(folder, model, sink)
    assert first.summary["errors"] == {"empty": 1, "not_an_image": 1, "not_found": 1}
    failed = {Path(row["uri"]).name: row["error"] for row in table_rows(str(sink)) if row["error"]}
    assert failed["empty.png"]["stage"] == "prepare"
    assert failed["link.png"] == {"stage": "fetch", "code": "not_found", "message": "the object is not there"}
    assert run(folder, model, sink).summary["pending"] == 0
    Image.new("RGB", (3, 3)).save(tmp_path / "nowhere", "PNG")
    retried = run(folder, model, sink, retry_errors=True)
    assert (retried.summary["done"], retried.summary["failed"]) == (1, 2)
    rows = table_rows(str(sink))
    assert len(rows) == len({row["uri"] for row in rows}) == 6


def test_the_folder_of_broken_and_odd_files(cluster: None, model: str, tmp_path: Path) -> None:
    """One row for each: the right error, or a mask of the right size, upright."""
    folder = tmp_path / "found"
    folder.mkdir()
    expected: dict[str, str | tuple[int, int]] = {}
    for name, (data, code) in broken_images.broken().items():
        (folder / f"{name}.jpg").write_bytes(data)
        expected[f"{name}.jpg"] = code
    for name, (data, _) in broken_images.odd().items():
        (folder / f"{name}.png").write_bytes(data)
        expected[f"{name}.png"] = (9, 7) if name.startswith("16-bit") else (7, 9)
    for orientation in (3, 6, 8):
        (folder / f"rotated {orientation}.jpg").write_bytes(broken_images.rotated(orientation))
        expected[f"rotated {orientation}.jpg"] = (24, 32)
    os.mkfifo(folder / "pipe.jpg")
    os.symlink(folder, folder / "itself", target_is_directory=True)
    os.symlink("loop.jpg", folder / "loop.jpg")
    expected |= {"pipe.jpg": "unreadable", "loop.jpg": "unreadable"}
    run(folder, model, tmp_path / "sink", max_error_rate=1.0)
    rows = table_rows(str(tmp_path / "sink"))
    found = {
        Path(row["uri"]).name: row["error"]["code"] if row["error"] else (row["height"], row["width"]) for row in rows
    }
    assert found == expected
    assert len(rows) == len(expected)
    for row in rows:
        if row["error"] is None:
            assert decode_mask(row["mask"]["bytes"]).shape == (row["height"], row["width"])


def test_too_many_errors_stop_the_run(cluster: None, model: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2)
    for number in range(10):
        (folder / f"broken{number}.png").write_bytes(b"x")
    spent = run(folder, model, tmp_path / "sink", error_floor=3, max_error_rate=0.2).summary
    assert (spent["status"], spent["exit_code"]) == ("error budget spent", 3)
    assert "inputs failed, more than" in spent["error"]
    assert run(folder, model, tmp_path / "sink", error_floor=3, max_error_rate=1.0).summary["listed"] == 12


def test_an_input_over_the_size_limit_fails_alone(cluster: None, model: str, images: Path, tmp_path: Path) -> None:
    sizes = sorted(path.stat().st_size for path in images.iterdir())
    fetch = FetchConfig(max_bytes=sizes[20])
    done = run(images, model, tmp_path, stream={"fetch": fetch}, max_error_rate=1.0)
    assert done.summary["errors"] == {"too_large": sum(size > sizes[20] for size in sizes)}


def test_a_wrong_source_writes_nothing(cluster: None, model: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file or folder"):
        run(tmp_path / "nothing", model, tmp_path / "sink")
    assert not (tmp_path / "sink").exists()


def test_results_are_no_source(cluster: None, model: str, images: Path, tmp_path: Path) -> None:
    """A sink or what is in one is refused; a part names its inputs."""
    sink = tmp_path / "sink"
    first = run(images, model, sink, limit=2)
    for source in (sink, sink / "runs", sink / "table"):
        with pytest.raises(RequestError, match="lies in the sink"):
            run(source, model, sink)
    with pytest.raises(RequestError, match="is a sink: results are no inputs"):
        run(sink, model, tmp_path / "other")
    with pytest.raises(RequestError, match="is a Delta table"):
        run(sink / "table", model, tmp_path / "other")
    again = run(Path(open_delta(str(sink)).file_uris()[0].removeprefix("file://")), model, tmp_path / "other")
    assert again.counts.listed == first.counts.pending == 2


def test_gpu_actors_only_predict(cluster: None, model: str, images: Path, tmp_path: Path) -> None:
    """The plan for GPUs has three operators that Ray does not fuse; the one for CPUs has one."""
    from ray.data._internal.logical.optimizers import get_execution_plan

    described = package.load(model)
    schema = PLAN_SCHEMA
    names = {}
    devices: tuple[Device, ...] = ("gpu", "cpu")
    for device in devices:
        work = stages.Work(
            task=TASK,
            package_uri=model,
            package_digest=described.digest,
            settings="s",
            table_uri=str(tmp_path),
            schema=schema,
            run_id="1",
            stream=StreamConfig(device=device, actors=1),
            places=mark(str(tmp_path)),
        )
        dataset = stream.plan(ray.data.range(4), work, device, 4)
        operator, names[device] = get_execution_plan(dataset._logical_plan)[0].dag, []
        while operator.input_dependencies:
            names[device].insert(0, operator.name)
            operator = operator.input_dependencies[0]
    assert names["cpu"][-1].endswith("MapBatches(AllStages)")
    assert [name.split("(")[-1].rstrip(")") for name in names["gpu"][-3:]] == ["Preparing", "Predicting", "Writing"]


def test_a_block_survives_the_way_between_operators() -> None:
    import pyarrow as pa

    entries = pa.table({"ordinal": [0, 1, 2, 3], "uri": list("abcd")})
    block = stages._Block(entries)
    none = {"stage": "s", "code": "empty", "message": "m"}
    block.keep(pa.table({"x": [1, 2, 3, 4]}), pa.array([None, none, None, None], stages.ERROR_TYPE))
    block.seconds["fetch"] = 1.5
    again = stages._Block.from_table(block.to_table())
    assert again.entries.to_pylist() == entries.to_pylist()
    assert again.errors == [None, none, None, None]
    assert again.columns.to_pylist() == [{"x": 1}, {"x": 3}, {"x": 4}]
    assert (again.good.tolist(), again.seconds["fetch"]) == ([0, 2, 3], 1.5)


def test_a_guilty_row_is_found_by_halving() -> None:
    import pyarrow as pa

    def work(rows: pa.Table) -> tuple:
        if 5 in rows["x"].to_pylist():
            raise ValueError("five")
        return stages._all_good(rows)

    done, errors = stages._divided(pa.table({"x": range(8)}), "predict", work)
    assert pa.concat_tables(done)["x"].to_pylist() == [0, 1, 2, 3, 4, 6, 7]
    assert [error and error["code"] for error in errors] == [None] * 5 + ["internal"] + [None] * 2
    assert errors[5]["message"] == "predict failed with ValueError"


def test_after_deaths_each_row_is_fetched_alone_and_told_before(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    told: list[tuple[str, int]] = []

    class Told(stages.BlockWatchdog):
        def begin_row(self, stage: str, row: int) -> None:
            told.append((stage, row))

    watchdog = Told(None, "block", 60.0)
    columns: dict[str, list] = {name: [None] * 3 for name in ENTRIES.names}
    columns |= {"uri": [str(tmp_path / name) for name in "abc"], "etag": [""] * 3, "format": ["object"] * 3}
    work = SimpleNamespace(task=TASK, stream=StreamConfig())
    for row_by_row in (False, True):
        block = stages._Block(pa.table(columns, schema=ENTRIES), first=10)
        watchdog.row_by_row, watchdog._faulty = row_by_row, {11: ("fetch", "crashed")}
        stages._fetch(block, work, watchdog)
        codes = [error and (error["stage"], error["code"]) for error in block.errors]
        assert codes == [None, ("fetch", "crashed") if row_by_row else None, None]
        assert block.columns["data"].to_pylist() == ([b"a", b"c"] if row_by_row else [b"a", b"b", b"c"])
    assert told == [("fetch", 10), ("fetch", 12)]


def test_a_part_that_overlaps_is_refused(tmp_path: Path) -> None:
    counts = RunCounts()
    committer = Committer(Table(str(tmp_path), PLAN_SCHEMA), counts, model="m", run_id="1", inputs=6)
    receipt = {"path": "p", "size": 1, "failed": [], "unusual": [], "bytes": 1}
    accepted = [
        committer.accept(receipt | {"ordinals": ordinals, "rows": len(ordinals)}, ())
        for ordinals in ([0, 1], [1, 2], [2, 3], [0, 1], [4, 4])
    ]
    assert accepted == [True, False, True, False, False]
    assert committer.accepted.tolist() == [True] * 4 + [False] * 2
    assert (counts.done, committer.missing(6)) == (4, 2)


def test_blocks_get_smaller_when_there_are_few_inputs() -> None:
    config = StreamConfig(batch_rows=4, block_rows=64, actors=2)
    assert [block_rows(pending, config, 100) for pending in (1, 31, 80, 10_000)] == [4, 4, 10, 64]
    config = StreamConfig(batch_rows=4, block_rows=64)
    assert [block_rows(2048, config, room) for room in (None, 8, 32, 1000)] == [64, 64, 16, 4]


def test_the_number_of_actors() -> None:
    ranges = [StreamConfig(actors=actors).actor_range() for actors in (None, 3, "3", "1:64", "4:4")]
    assert ranges == [(1, None), (1, 3), (1, 3), (1, 64), (4, 4)]
    for wrong in (0, "0:2", "4:2", "few", "2:"):
        with pytest.raises(RequestError, match=r"StreamConfig\.actors must be a number or MIN:MAX, at least 1"):
            StreamConfig(actors=wrong)
    with pytest.raises(RequestError, match=r"gpus_per_actor must be in \(0, 1\], got 2"):
        StreamConfig(gpus_per_actor=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in range(2, 8))])
def test_killed_workers_lose_and_double_nothing(
    cluster: None, model: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Actors are killed at random while images of very different sizes are on their way."""
    source = tmp_path_factory.getbasetemp() / "sizes"
    if not source.exists():
        write_images(source, 160, largest=400)
        run(source, model, tmp_path_factory.getbasetemp() / "sizes-reference")
    dice, killed, over = random.Random(seed), [], threading.Event()

    def kill() -> None:
        while not over.wait(dice.uniform(0.3, 1.5)) and len(killed) < 4:
            workers = [pid for pid, name in descendants(os.getpid()).items() if name.startswith("ray::MapWorker")]
            if workers:
                killed.append(dice.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = run(source, model, tmp_path, stream={"actors": 2, "block_rows": 6}, commit_s=0.2)
    finally:
        over.set()
        killer.join()
    assert killed
    assert done.summary["done"] == 160
    assert_equal_tables(str(tmp_path_factory.getbasetemp() / "sizes-reference"), str(tmp_path))


def test_the_committed_log_counts_what_the_table_holds(reference: Path) -> None:
    delta = open_delta(str(reference))
    assert delta.count() == 40
    assert time.time() * 1000 >= max(entry["timestamp"] for entry in delta.history())
