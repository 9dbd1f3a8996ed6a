"""What prepared samples are known by, and what is said of inputs that cannot be used. Blocks are prepared here."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import config
from pipeline.distributed import preparation, train
from pipeline.distributed.preparation import TRAINING, VALIDATION, Preparation
from pipeline.errors import RequestError
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNetConfig
from pipeline.source.corpora import corpus
from pipeline.source.labelled import all_inputs, held_out, split_files
from pipeline.text.task import TextSegmentation

TASK = ImageSegmentation(
    classes=("sea", "land", "sky"), palette=((0, 0, 9), (0, 9, 0), (9, 0, 0)), ignore_index=7, height_px=8, width_px=8
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(blocks: list[pa.Table], work: Any) -> list[dict[str, Any]]:
        return [work(block).to_pylist()[0] for block in blocks]

    monkeypatch.setattr(preparation, "_run", run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four labelled images with the classes 0 and 1, written an hour ago."""
    place = tmp_path / "coast"
    for name in ("images", "labels"):
        (place / name).mkdir(parents=True)
    for index in range(4):
        Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)).save(place / "images" / f"{index}.png")
        write_label(place / "labels" / f"{index}.png", 0, 1)
    (place / "train.txt").write_text("".join(f"images/{i}.png labels/{i}.png\n" for i in range(3)))
    (place / "val.txt").write_text("images/3.png labels/3.png\n")
    for path in place.rglob("*.png"):
        os.utime(path, (time.time() - 3600,) * 2)
    return place


def write_label(path: Path, *rows: int) -> None:
    Image.fromarray(np.repeat(np.array(rows, np.uint8), 64 // len(rows)).reshape(8, 8)).save(path)


def samples(folder: Path, out: Path, split: str = "train", **settings: Any) -> Preparation:
    return Preparation(split_files(str(folder), split), TASK, str(out), **settings)


def plan(folder: Path, out: Path) -> train.Plan:
    return train.Plan(
        task=TASK,
        model_name="unet",
        model_config=config.to_dict(UNetConfig(classes=3, widths=(8, 16), blocks=(1, 1))),
        copies=(),
        train=samples(folder, out).planned(),
        validation=samples(folder, out, "val", part=VALIDATION).planned(),
        config=train.DistributedTrainConfig(epochs=1, batch_rows=2),
        out=str(out),
        card={},
    )


def begin(folder: Path, out: Path) -> None:
    """Leave what a training leaves that has prepared its samples and stopped."""
    for split in ("train", "val"):
        samples(folder, out, split).prepare()
    (out / "training.json").write_text(json.dumps(train._described(plan(folder, out))))


def forget_labels(out: Path) -> None:
    """Make the prepared samples and the training those of a version that did not look at the labels' tags."""
    for path in (*out.glob("prepared/*/index.json"), out / "training.json"):
        content = json.loads(path.read_text())
        for name in ("labels", "failures", "truth"):
            content.pop(name, None)
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("change", ["replaced", "missing", "supplied"])
def test_other_labels_are_another_training(folder: Path, tmp_path: Path, change: str) -> None:
    label, out = folder / "labels" / "2.png", tmp_path / "out"
    if change == "supplied":
        label.rename(tmp_path / "kept.png")
    begin(folder, out)
    assert train.finished(plan(folder, out)) is None, "the same training may go on"
    if change == "replaced":
        write_label(label, 2)
    elif change == "missing":
        label.unlink()
    else:
        (tmp_path / "kept.png").rename(label)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(RequestError, match=r"holds another training; .*: label files have changed since"):
        train.finished(plan(folder, out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_samples_of_other_labels_are_prepared_again(folder: Path, tmp_path: Path) -> None:
    first = samples(folder, tmp_path / "out").prepare()
    assert samples(folder, tmp_path / "out").prepare() == first
    write_label(folder / "labels" / "0.png", 2)
    assert samples(folder, tmp_path / "out").planned().outdated
    again = samples(folder, tmp_path / "out").prepare()
    assert again.uri == first.uri, "the name is that of the first version"
    assert (first.truth["sky"], again.truth["sky"]) == (0, 64)
    assert len(again.load()) == 3


def test_a_training_of_a_version_without_tags_of_labels_goes_on(folder: Path, tmp_path: Path) -> None:
    begin(folder, tmp_path / "out")
    forget_labels(tmp_path / "out")
    assert train.finished(plan(folder, tmp_path / "out")) is None
    old = samples(folder, tmp_path / "out").prepare()
    assert (old.rows, old.truth, old.missing_classes()) == (3, {}, [])
    write_label(folder / "labels" / "0.png", 2)
    later = time.time() + 60
    os.utime(folder / "labels" / "0.png", (later, later))
    with pytest.raises(RequestError, match="label files have changed since"):
        train.finished(plan(folder, tmp_path / "out"))


def test_a_label_that_changes_after_the_listing_fails(folder: Path, tmp_path: Path) -> None:
    made = samples(folder, tmp_path / "out")
    write_label(folder / "labels" / "0.png", 2)
    assert made.prepare().failed == {"changed": 1}


def test_failed_inputs_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "labels" / "0.png").unlink()
    write_label(folder / "labels" / "1.png", 5)
    (folder / "images" / "2.png").write_bytes(b"GIF89a")
    (folder / "train.txt").write_text((folder / "train.txt").read_text() + "images/3.png labels/3.png\n")
    found = samples(folder, tmp_path / "out").prepare()
    assert (found.rows, found.failed) == (1, {"not_found": 1, "bad_label": 1, "truncated": 1})
    said = [str(item).removeprefix(f"{folder}/") for item in found.failures]
    assert said[0] == "labels/0.png: not_found, the object is not there"
    assert said[1].startswith("labels/1.png: bad_label, the label has the value 5")
    assert said[2].startswith("images/2.png: ")
    assert samples(folder, tmp_path / "out").prepare().failures == found.failures


def test_a_refused_request_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    write_label(folder / "labels" / "3.png", 5)
    made = samples(folder, tmp_path / "out", "val", part=VALIDATION)
    with pytest.raises(RequestError, match=r"no validation samples in 1 inputs; .*the first: .*3.png: bad_label"):
        made.prepare()
    assert not (tmp_path / "out").exists()


def test_labels_without_a_class_are_refused(folder: Path, tmp_path: Path) -> None:
    for index in range(3):
        write_label(folder / "labels" / f"{index}.png", 7)
    with pytest.raises(RequestError, match="no pixel with a class in the labels of 3 training samples"):
        samples(folder, tmp_path / "out").prepare().check_truth(TASK, TRAINING)
    for index in range(3):
        write_label(folder / "labels" / f"{index}.png", 7, 1)
    one = samples(folder, tmp_path / "other").prepare()
    assert one.missing_classes() == ["sea", "sky"]
    with pytest.raises(RequestError, match="have only one class, 'land'"):
        one.check_truth(TASK, TRAINING)
    one.check_truth(TASK, VALIDATION)


def test_documents_without_a_boundary_are_refused(tmp_path: Path) -> None:
    for index in range(2):
        (tmp_path / f"{index}.txt").write_text("The rain fell. Nobody came. The door stood open.")
    task = TextSegmentation(buckets=64)
    found = Preparation(all_inputs(str(tmp_path), task.inputs), task, str(tmp_path / "out")).prepare()
    assert found.truth == {"boundary": 0}
    with pytest.raises(RequestError, match="no paragraph boundary in the labels of 2 training samples"):
        found.check_truth(task, TRAINING)


def test_one_input_cannot_be_divided(folder: Path) -> None:
    two = split_files(str(folder), "train").slice(0, 2)
    assert [part.num_rows for part in held_out(two, 0.9)] == [1, 1]
    with pytest.raises(RequestError, match=r"at least 2 inputs are needed, .*got only '.*images/0.png'"):
        held_out(two.slice(0, 1), 0.1)


def text_sources(place: Path, *counts: int) -> list[str]:
    """Folders with so many texts of three paragraphs each."""
    for number, count in enumerate(counts):
        (place / str(number)).mkdir()
        for index in range(count):
            text = f"The rain fell on {index}.\n\nNobody came.\n\nThe door of {number} stood open."
            (place / str(number) / f"{index}.txt").write_text(text)
    return [str(place / str(number)) for number in range(len(counts))]


def test_sources_are_drawn_by_their_weights(tmp_path: Path) -> None:
    uris, task = text_sources(tmp_path, 3, 2), TextSegmentation(buckets=64, unpunctuated_fraction=0)
    found = corpus(uris, [1, 3], task.inputs)
    made = Preparation(found.inputs, task, str(tmp_path / "out"), sources=found.sources)
    prepared = made.prepare()
    assert [(item.rows, item.truth, item.inputs) for item in prepared.sources] == [(3, 6, 3), (2, 4, 2)]
    samples = prepared.load()
    assert len(samples) == 3 + 3 * 2
    assert np.bincount(samples.places(np.arange(9))).tolist() == [1, 1, 1, 3, 3]
    assert made.planned().weights == prepared.weights == (1.0, 3.0)
    held = Preparation(found.inputs, task, str(tmp_path / "out"), part=VALIDATION, sources=found.sources)
    assert len(held.prepare().load()) == 5, "weights are for learning only"


def test_a_source_that_is_added_is_prepared(tmp_path: Path) -> None:
    uris, task = text_sources(tmp_path, 2, 2), TextSegmentation(buckets=64)
    both = corpus([str(tmp_path / "?" / "*.txt")], (), task.inputs)
    one = Preparation(both.inputs, task, str(tmp_path / "out"), sources=both.sources).prepare()
    apart = corpus(uris, (), task.inputs)
    assert apart.inputs["uri"].to_pylist() == both.inputs["uri"].to_pylist()
    found = Preparation(apart.inputs, task, str(tmp_path / "out"), sources=apart.sources).prepare()
    assert (one.sources, len(found.sources)) == ((), 2)


def test_a_source_without_paragraphs_is_named(tmp_path: Path) -> None:
    uris, task = text_sources(tmp_path, 2, 2), TextSegmentation(buckets=64)
    for index in range(2):
        (tmp_path / "1" / f"{index}.txt").write_text("The rain fell. Nobody came.")
    found = corpus(uris, (), task.inputs)
    prepared = Preparation(found.inputs, task, str(tmp_path / "out"), sources=found.sources).prepare()
    with pytest.raises(RequestError, match=r"/1': no paragraph boundary in its 2 inputs"):
        preparation.check_sources(uris, [prepared], task)
