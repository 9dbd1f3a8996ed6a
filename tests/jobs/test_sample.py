"""The job that samples, as a user runs it: what it writes, and what it refuses."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.cli import parse
from jobs.sample import Sample, work
from pipeline import package
from pipeline.errors import RequestError
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.segmenters.unet import UNet, UNetConfig
from testing.processes import run_job
from testing.runs import TASK as SEGMENTATION
from tests.generation.test_pictures import write_images

SMALL = ("--mixture.components", "2", "--mixture.iterations", "3", "--two_stage.steps", "5", "--two_stage.width", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gray autoencoder of binary images that nothing has trained, a segmenter, and images."""
    folder = tmp_path_factory.mktemp("sample")
    write_images(folder / "images", 12)
    (folder / "images" / "05.png").write_bytes(b"no picture")
    task = ImageReconstruction(height_px=16, width_px=20, channels=1, binarise=True)
    torch.manual_seed(0)
    model = ConvVAE(
        ConvVAEConfig(channels=1, widths=(8, 16), blocks=(0, 0), decoder_blocks=(0, 0), likelihood="bernoulli")
    )
    package.save(str(folder / "autoencoder"), model_name="conv_vae", model=model, task=task, card={})
    unet = UNet(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1)))
    package.save(str(folder / "segmenter"), model_name="unet", model=unet, task=SEGMENTATION, card={})
    return folder


def arguments(place: Path, out: str, *more: str) -> list[str]:
    return ["--model", str(place / "autoencoder"), "--out", str(place / out), *more]


def images_of(where: Path) -> list[np.ndarray]:
    rows = pq.read_table(where / "samples.parquet")["image"].to_pylist()
    found = []
    for row in rows:
        with Image.open(BytesIO(row["bytes"])) as picture:
            found.append(np.asarray(picture).astype(int))
    return found


def test_the_job_writes_what_it_says(place: Path) -> None:
    more = ["--images", str(place / "images"), "--sampler", "mixture", "--count", "7", "--batch_rows", "3", *SMALL]
    summary = json.loads(json.dumps(work(parse(Sample, arguments(place, "mixture", *more)))))
    out = place / "mixture"
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.png" for name in ("samples", "reconstructions", "interpolations", "traversals")),
        "samples.parquet",
        "sampler",
        "report.html",
    }
    assert summary["fitted_to"] == 11
    assert summary["failed"] == {"not_an_image": 1}
    assert summary["samples"] == str(out / "samples.parquet")
    assert sorted(summary["pictures"]) == sorted(str(path) for path in out.glob("*.png"))
    rows = pq.read_table(out / "samples.parquet")
    assert rows.column_names == ["index", "seed", "sampler", "model", "image"]
    assert set(rows["model"].to_pylist()) == {package.load(str(place / "autoencoder")).digest}
    samples = images_of(out)
    assert len(samples) == 7
    assert {picture.shape for picture in samples} == {(16, 20)}
    # The grid holds the samples, at twice their size because they are small.
    with Image.open(out / "samples.png") as picture:
        grid = np.asarray(picture).astype(int)
    assert abs(grid[2 : 2 + 32 : 2, 2 + 42 : 2 + 82 : 2, 0] - samples[1]).max() <= 0
    assert (out / "report.html").read_text().count("data:image/png") == 4

    # The sampler that was kept draws the same, without images and in other batches.
    again = ["--fitted", str(out / "sampler"), "--sampler", "mixture", "--count", "5"]
    found = work(parse(Sample, arguments(place, "again", *again)))
    assert [Path(uri).name for uri in found["pictures"]] == ["samples.png"]
    for one, other in zip(samples, images_of(place / "again"), strict=False):
        assert abs(one - other).max() <= 1


@pytest.mark.parametrize("sampler", ["prior", "two_stage"])
def test_a_seed_gives_the_same_samples_and_another_others(place: Path, sampler: str) -> None:
    given = [
        "--images",
        str(place / "images"),
        "--sampler",
        sampler,
        "--count",
        "3",
        "--pictures",
        '["samples"]',
        *SMALL,
    ]
    found = []
    for name, seed in (("one", "4"), ("two", "4"), ("three", "5")):
        work(parse(Sample, arguments(place, f"{sampler}-{name}", *given, "--seed", seed)))
        found.append(np.stack(images_of(place / f"{sampler}-{name}")))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_labelled_folder_gives_its_training_images_only(place: Path) -> None:
    folder = place / "labelled"
    write_images(folder, 4)
    (folder / "train.txt").write_text("00.png 00.png\n01.png 01.png\n")
    more = ["--images", str(folder), "--sampler", "mixture", "--pictures", '["samples"]', *SMALL]
    assert work(parse(Sample, arguments(place, "split", *more)))["fitted_to"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sampler", "mixture"], "Sample.images must be given for a sampler 'mixture', got None"),
        (["--pictures", '["samples","traversals"]'], "Sample.images must be given for traversals, got None"),
        (["--images", "nowhere"], "nowhere"),
        (["--sampler", "gan"], "sampler"),
        (["--count", "0"], "Sample.count must be at least 1, got 0"),
        (
            ["--model", "segmenter"],
            "must be of kind 'autoencoder' or 'image_regions' or 'text_autoencoder', got 'image_segmenter'",
        ),
        (["--images", "images", "--sampler", "mixture"], "MixtureConfig.components must be at most the number of"),
        (["--fitted", "images", "--sampler", "mixture"], "no sampler at"),
        (["--fitted", "images"], "Sample.fitted must be null for the prior"),
    ],
)
def test_wrong_requests_are_named(place: Path, more: list[str], message: str) -> None:
    here = {"--images", "--fitted", "--model"}
    more = [str(place / item) if index and more[index - 1] in here else item for index, item in enumerate(more)]
    with pytest.raises(RequestError) as caught:
        work(parse(Sample, arguments(place, "unwritten", *more)))
    assert message in str(caught.value)
    assert not (place / "unwritten").exists()


def test_a_wrong_request_is_one_line_and_exits_with_2(place: Path) -> None:
    code, summary, err = run_job("sample", *arguments(place, "unwritten", "--sampler", "two_stage"))
    assert (code, summary["status"]) == (2, "wrong request")
    assert len(err.strip().splitlines()) == 1
    assert summary["error"] == "Sample.images must be given for a sampler 'two_stage', got None"
