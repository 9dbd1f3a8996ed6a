"""Engines: what they compute, which one a run takes, and that a sink keeps it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jobs.segmenting import check_engine
from pipeline import package
from pipeline.distributed.engine_trial import EngineTrial, compared, decided, fastest_engine
from pipeline.engines import with_engine
from pipeline.errors import RequestError
from pipeline.models.segmenters.pixels import Pixels, PixelsConfig
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.runs.plan import RunConfig, RunPlan, StreamConfig
from pipeline.table.readers import open_delta
from testing.runs import TASK, new_run, write_images, write_package


def trial(engine: str, seconds: float, differs: float = 0.0) -> EngineTrial:
    return EngineTrial(engine=engine, seconds=seconds, differs=differs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        (trial("bfloat16", 0.5, 0.001), "bfloat16"),
        (trial("bfloat16", 0.5, 0.02), "float32"),
        (trial("bfloat16", 0.97, 0.0), "float32"),
        (trial("bfloat16", 2.0, 0.0), "float32"),
    ],
)
def test_the_fastest_engine_that_keeps_the_result_is_taken(other: EngineTrial, wanted: str) -> None:
    engine, reason = fastest_engine([trial("float32", 1.0), other], 0.005)
    assert engine == wanted
    assert "bfloat16 is" in reason
    assert fastest_engine([trial("float32", 1.0)], 0.005)[0] == "float32"


def test_bfloat16_gives_nearly_the_same_float32_logits() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1))).eval()
    image = torch.rand(2, 3, 37, 50)
    with torch.inference_mode():
        exact = model(image)
        found = with_engine(model, "bfloat16")(image)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert not torch.equal(found, exact)
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()


def test_trials_compare_masks_of_the_same_inputs(tmp_path: Path) -> None:
    found = package.load(write_package(tmp_path / "package", 0))
    files = sorted(write_images(tmp_path / "images", 6).iterdir())
    inputs = [{"data": file.read_bytes(), "format": "object", "label": None} for file in files]

    prepared = TASK.prepare(pa.Table.from_pylist(inputs, INPUT_SCHEMA)).drop_columns(["error"])
    models = {engine: with_engine(found.model(), engine) for engine in ("float32", "bfloat16")}
    first, second = compared(TASK, models, [prepared], torch.device("cpu"))
    assert (first.engine, first.differs) == ("float32", 0.0)
    assert second.engine == "bfloat16"
    assert 0 < second.differs < 0.2
    assert min(first.seconds, second.seconds) > 0


def test_a_network_that_runs_in_one_engine_only_is_refused_another() -> None:
    trees = Pixels(PixelsConfig(classes=2))
    with pytest.raises(RequestError, match=r"StreamConfig.engine must be auto or float32 for a Pixels"):
        check_engine(StreamConfig(engine="bfloat16"), trees)
    check_engine(StreamConfig(engine="auto"), trees)


@pytest.mark.ray
def test_a_sink_keeps_the_engine_of_its_model(cluster: None, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 4)
    model = package.load(write_package(tmp_path / "package", 0))

    def plan(sink: str, engine: str) -> RunPlan:
        return RunPlan(
            task=TASK,
            package=model,
            sources=(str(images),),
            sink=str(tmp_path / sink),
            config=RunConfig(),
            stream=StreamConfig(actors=1, engine=engine),  # type: ignore[arg-type]
        )

    said: list[str] = []
    measured = decided(plan("new", "auto"), said.append)
    assert measured.stream.engine in ("float32", "bfloat16")
    assert "times as fast as float32 and changes" in said[0]

    first = new_run([images], model, tmp_path / "sink", stream=StreamConfig(actors=1, engine="bfloat16"))
    first.live()
    assert first.summary["engine"] == "bfloat16"
    again = decided(plan("sink", "auto"), said.append)
    assert again.stream.engine == "bfloat16"
    assert "as in the last run" in said[-1]
    assert set(open_delta(str(tmp_path / "sink")).to_pyarrow_table()["settings"].to_pylist()) == {again.settings}
    assert again.settings != plan("sink", "float32").settings


@pytest.mark.ray
def test_without_a_readable_input_the_engine_is_float32(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.jpg").write_bytes(b"not a picture")
    said: list[str] = []
    plan = RunPlan(
        task=TASK,
        package=package.load(write_package(tmp_path / "package", 0)),
        sources=(str(tmp_path / "images"),),
        sink=str(tmp_path / "sink"),
        config=RunConfig(),
        stream=StreamConfig(engine="auto"),
    )
    assert decided(plan, said.append).stream.engine == "float32"
    assert said == ["engine float32: none of the first 1 inputs could be read"]


def test_a_network_with_one_engine_is_not_measured(tmp_path: Path) -> None:
    trees = Pixels(PixelsConfig(classes=3, trees=1, nodes=1))
    found = package.save(str(tmp_path / "package"), model_name="pixels", model=trees, task=TASK, card={})
    said: list[str] = []
    plan = RunPlan(
        task=TASK,
        package=found,
        sources=(str(tmp_path / "nowhere"),),  # which a measurement would have to list
        sink=str(tmp_path / "sink"),
        config=RunConfig(),
        stream=StreamConfig(engine="auto"),
    )
    assert decided(plan, said.append).stream.engine == "float32"
    assert said == ["engine float32: the model runs in no other"]
