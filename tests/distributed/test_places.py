"""A node that does not see the sink, the model or the source of a run ends the run, and nothing is lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray._private.state import available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import package
from pipeline.distributed import train
from pipeline.distributed.places import PlaceNotShared, UnfitNode, mark, unfit_node
from pipeline.distributed.stream import executed, item_or_none
from pipeline.errors import RequestError
from pipeline.examples.scenes import write_scenes
from pipeline.runs.plan import StreamConfig
from pipeline.table.readers import open_delta
from testing import trainings
from testing.nodes import another_node
from testing.runs import new_run, run, write_images, write_package


@pytest.mark.ray
def test_a_node_with_a_disk_of_its_own(cluster: None, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    places = {"sink": tmp_path / "sink", "package": tmp_path / "package", "images": tmp_path / "images"}
    made = [places, {name: hidden / name for name in places}]
    for found in made:
        write_package(found["package"], 0)
        write_images(found["images"], 24)
    with another_node(cpus=2, hidden=hidden), head_is_busy():
        for name in places:
            where = places | {name: hidden / name}
            model = package.load(str(where["package"]))
            with pytest.raises(RequestError, match="does not see") as caught:
                new_run([where["images"]], model, where["sink"], stream=StreamConfig(actors=2)).live()
            assert str(hidden / name) in str(caught.value)
            del caught  # the error's traceback holds what the run used
    # No actor of the failed runs keeps a CPU from what comes next, which takes both.
    whole = ray.data.from_arrow([pa.table({"x": [1]})])
    both = executed(lambda: whole.map_batches(lambda rows: rows, batch_format="pyarrow", num_cpus=2))
    assert [rows.num_rows for rows in item_or_none(both, 60) if rows is not None] == [1]
    # The same command goes on where all nodes see the places, and every row of the table can be read.
    for sink in (places["sink"], hidden / "sink"):
        done = run(places["images"], str(places["package"]), sink).summary
        assert (done["status"], done["listed"], done["failed"]) == ("done", 24, 0)
        rows = open_delta(str(sink)).to_pyarrow_table()
        assert len(set(rows["uri"].to_pylist())) == rows.num_rows == 24
        assert not list(sink.glob("runs/*/token"))


@pytest.mark.ray
@pytest.mark.heavy
def test_a_training_on_a_node_with_a_disk_of_its_own(cluster: None, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    write_scenes(str(tmp_path / "scenes"), {"train": 8, "val": 2}, height=30, width=40)
    made = trainings.plan(str(tmp_path / "scenes"), hidden / "out", trainings.SLOW, epochs=1, max_failures=0)
    with (
        another_node(cpus=2, hidden=hidden),
        head_is_busy(),
        pytest.raises(PlaceNotShared, match="does not see the folder of this job"),
    ):
        train.fit(made, lambda _: None)
    assert not (hidden / "out" / "config.json").exists()


@contextmanager
def head_is_busy() -> Iterator[None]:
    """Occupy the free CPUs of this node, so that all work goes to another one. Earlier tests may still hold some."""
    node = ray.get_runtime_context().get_node_id()
    free = available_resources_per_node().get(node, {}).get("CPU", 0.0)

    class Busy:
        def ready(self) -> None: ...

    where = NodeAffinitySchedulingStrategy(node, soft=False)
    busy = (
        ray.remote(Busy)
        .options(
            num_cpus=int(free),  # a CPU actor of a run asks for 0.9
            scheduling_strategy=where,
        )
        .remote()
    )
    ray.get(busy.ready.remote(), timeout=60)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        ray.kill(busy)


def test_what_a_process_must_see(tmp_path: Path) -> None:
    inputs = write_images(tmp_path / "images", 20)
    names = [str(path) for path in sorted(inputs.iterdir())]
    model = write_package(tmp_path / "package", 0)
    places = mark(str(tmp_path / "sink"), package=model, inputs=[*names, "s3://bucket/elsewhere.png"])
    places.check()
    for name in names[1:]:
        Path(name).unlink()
    places.check()  # inputs may go while a run goes on
    Path(names[0]).unlink()
    with pytest.raises(PlaceNotShared, match="does not see the source"):
        places.check()
    (tmp_path / "package").rename(tmp_path / "moved")
    with pytest.raises(PlaceNotShared, match="does not see the model package"):
        places.check()
    mark(str(tmp_path / "sink"))
    with pytest.raises(PlaceNotShared, match="does not see the folder of this job"):
        places.check()


def test_the_error_is_found_in_that_of_ray() -> None:
    text = "ray::MapWorker()\n  raise\npipeline.distributed.places.PlaceNotShared: node 1 does not see it\n\nThe above"
    found = unfit_node(RuntimeError(text))
    assert (type(found), str(found)) == (UnfitNode, "node 1 does not see it")
    assert unfit_node(ValueError("PlaceNotShared")) is None
