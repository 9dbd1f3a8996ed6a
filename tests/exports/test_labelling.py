"""From a table to a queue, to corrections in the formats of the tools, to a labelled folder, to a training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.exports.annotations import Annotated, Shape
from pipeline.exports.queue import choose
from pipeline.exports.regions import filled, polygons, regions
from pipeline.exports.rle import brush_bytes, cvat_runs, from_brush_bytes, from_run_lengths, run_lengths
from pipeline.images.labels import LabelRules, read_classes
from pipeline.images.outputs import decode_mask, encode_mask
from pipeline.source.labelled import split_files
from pipeline.table.delta import Table
from pipeline.table.queries import CurrentRows
from pipeline.table.schema import TableSchema
from testing.golden import GOLDEN, scenes_in_place
from testing.jobs import call_job
from testing.runs import TASK

SINK = str(GOLDEN / "sink-whole")
CLASSES = ["sky", "hill", "field", "building", "tree"]


@pytest.fixture(scope="module")
def scenes() -> Iterator[Path]:
    with scenes_in_place() as folder:
        yield folder


@pytest.fixture
def queue(scenes: Path, tmp_path: Path) -> Path:
    """A queue of four images."""
    code, summary, said = call_job("label_queue", "--sink", SINK, "--out", str(tmp_path / "queue"), "--count", "4")
    assert (code, summary["queued"], summary["unreadable"]) == (0, 4, 0), said
    return tmp_path / "queue"


def shown(queue: Path) -> dict[str, np.ndarray]:
    """The masks of a queue by the names of its images."""
    rows = pq.read_table(queue / "manifest.parquet").to_pylist()
    return {row["name"]: decode_mask(row["mask"]["bytes"]) for row in rows}


def corrected(queue: Path) -> dict[str, np.ndarray]:
    """What a person finds right: a building in the sky, the sky over the building's left, a tree in the corner."""
    found = {}
    for name, mask in shown(queue).items():
        found[name] = mask.copy()
        found[name][2:9, 4:12] = 3
        found[name][2:9, 2:6] = 0
        found[name][-4:, -4:] = 4
    return found


def painted(before: np.ndarray, after: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The regions of the classes after a person has painted with brushes, which take nothing from other classes."""
    ids = np.union1d(before, after).tolist()
    return [(CLASSES[number], (before == number) | (after == number)) for number in ids]


def corrected_tasks(queue: Path) -> Path:
    """The tasks of a queue as Label Studio exports them: each submitted with corrections, but for the last one."""
    tasks = json.loads((queue / "label-studio" / "tasks.json").read_text())
    right = corrected(queue)
    for number, task in enumerate(tasks):
        name = task["data"]["name"]
        template: dict[str, Any] = task.pop("predictions")[0]["result"][0]
        results = [
            {
                **template,
                "id": label,
                "value": {"format": "rle", "rle": list(brush_bytes(inside)), "brushlabels": [label]},
            }
            for label, inside in painted(shown(queue)[name], right[name])
        ]
        skipped = {"result": results[:1], "was_cancelled": True}
        task |= {"id": number, "annotations": [{"result": results, "was_cancelled": False}, skipped]}
    tasks[-1]["annotations"] = []
    (queue / "export.json").write_text(json.dumps(tasks))
    return queue / "export.json"


def corrected_archive(queue: Path) -> Path:
    """annotations.xml in an archive, as CVAT exports it: masks, polygons of trees, and paths of uploaded folders."""
    root = ElementTree.parse(queue / "cvat" / "annotations.xml").getroot()
    for image in root.iter("image"):
        name = image.attrib["name"]
        image.attrib["name"] = f"uploaded/{name}"
        after = corrected(queue)[name]
        for mask in list(image):
            image.remove(mask)
        for label, inside in painted(shown(queue)[name], after):
            box = {"left": "0", "top": "0", "width": str(after.shape[1]), "height": str(after.shape[0])}
            ElementTree.SubElement(image, "mask", {"label": label, "rle": cvat_runs(inside), "z_order": "0", **box})
        for region in regions(after, without=[0, 1, 2, 3]):
            for outline in polygons(region):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(outline[::2], outline[1::2], strict=True))
                ElementTree.SubElement(image, "polygon", {"label": "tree", "points": points, "z_order": "1"})
        ElementTree.SubElement(image, "tag", {"label": "tree"})
    with zipfile.ZipFile(queue / "export.zip", "w") as archive:
        archive.writestr("annotations.xml", ElementTree.tostring(root))
    return queue / "export.zip"


def merge(labels: Path, queue: Path, into: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return call_job("merge_labels", "--labels", str(labels), "--queue", str(queue), "--into", str(into), *more)


def training_labels(folder: Path, queue: Path) -> dict[str, np.ndarray]:
    """The labels of the training split as a training reads them, by the names of the images in the queue."""
    rules, found = LabelRules(**read_classes(str(folder))), {}
    for row in split_files(str(folder), "train").to_pylist():
        (name,) = [name for name in shown(queue) if Path(row["uri"]).name.startswith(name.removesuffix(".jpg"))]
        assert Path(row["uri"]).read_bytes() == (queue / "images" / name).read_bytes()
        found[name] = rules.read(Path(row["label_uri"]).read_bytes(), *shown(queue)[name].shape)
    return found


def test_a_queue(queue: Path, scenes: Path) -> None:
    rows = sorted(pq.read_table(queue / "manifest.parquet").to_pylist(), key=lambda row: row["place"])
    assert [row["place"] for row in rows] == [0, 1, 2, 3]
    assert (rows[0]["name"], rows[0]["uri"]) == ("0003.jpg", str(scenes / "images/train/0003.jpg"))
    assert rows[0]["why"] == "uncertainty 1.36, above 95 % of the rows; novelty 100, above 82 % of the rows"
    assert {path.name for path in (queue / "images").iterdir()} == {row["name"] for row in rows}
    assert (queue / "images" / "0003.jpg").read_bytes() == (scenes / "images/train/0003.jpg").read_bytes()
    tasks = json.loads((queue / "label-studio" / "tasks.json").read_text())
    assert {task["data"]["name"] for task in tasks} == {row["name"] for row in rows}
    where = {task["data"]["name"]: task["data"]["image"] for task in tasks}
    assert where["0003.jpg"] == f"/data/local-files/?d={str(queue / 'images' / '0003.jpg')[1:]}"
    root = ElementTree.parse(queue / "cvat" / "annotations.xml").getroot()
    assert {image.attrib["name"] for image in root.iter("image")} == {row["name"] for row in rows}
    assert read_classes(str(queue))["classes"] == tuple(CLASSES)


def test_an_earlier_queue_is_left_out(queue: Path, tmp_path: Path) -> None:
    arguments = ["--sink", SINK, "--without", str(queue), "--images", "false"]
    code, summary, said = call_job("label_queue", *arguments, "--out", str(tmp_path / "next"), "--count", "100")
    assert (code, summary["queued"]) == (0, 7), said
    assert not set(shown(queue)) & set(shown(tmp_path / "next"))
    assert not (tmp_path / "next" / "images").exists()
    more = ["--without", str(tmp_path / "next"), "--out", str(tmp_path / "none")]
    code, summary, _ = call_job("label_queue", *arguments, *more)
    assert (code, summary["queued"], (tmp_path / "none").exists()) == (0, 0, False)


def test_images_that_are_gone_are_named(scenes: Path, tmp_path: Path) -> None:
    (scenes / "images/train/0003.jpg").rename(tmp_path / "0003.jpg")
    try:
        arguments = ["--sink", SINK, "--out", str(tmp_path / "queue"), "--count", "11"]
        code, summary, said = call_job("label_queue", *arguments)
    finally:
        (tmp_path / "0003.jpg").rename(scenes / "images/train/0003.jpg")
    assert (code, summary["queued"], summary["unreadable"]) == (0, 10, 1)
    assert "0003.jpg: not_found" in said


@pytest.mark.parametrize("tool", ["label-studio", "cvat"])
def test_corrections_come_back(queue: Path, tmp_path: Path, tool: str) -> None:
    """What was painted over something else wins, whatever the order of the classes; the same labels twice change
    nothing."""
    labels = corrected_tasks(queue) if tool == "label-studio" else corrected_archive(queue)
    count, into = (3, tmp_path / "into") if tool == "label-studio" else (4, tmp_path / "into")
    code, summary, said = merge(labels, queue, into)
    assert (code, summary["added"], summary["corrected"], summary["failed"]) == (0, count, count, {}), said
    assert summary["without_annotation"] == 4 - count
    found, right = training_labels(into, queue), corrected(queue)
    assert len(found) == count
    for name, label in found.items():
        assert np.array_equal(label, right[name]), name
    listed = (into / "train.txt").read_text()
    code, summary, _ = merge(labels, queue, into)
    assert (code, summary["added"], summary["relabelled"]) == (0, 0, count)
    assert (into / "train.txt").read_text() == listed


def test_a_folder_with_other_ids_gets_more(queue: Path, tmp_path: Path) -> None:
    """Its classes have another order, and its list no line end; the queue has no copies, so sources are read."""
    shutil.rmtree(queue / "images")
    into = tmp_path / "into"
    (into / "images").mkdir(parents=True)
    names = ["field", "tree", "building", "hill", "sky"]
    content = {"classes": names, "palette": [[number, 9, 0] for number in range(5)], "ignore_index": None}
    (into / "classes.json").write_text(json.dumps(content))
    (into / "train.txt").write_text("images/x.png labels/x.png")
    code, summary, said = merge(corrected_tasks(queue), queue, into)
    assert (code, summary["added"]) == (0, 3), said
    assert json.loads((into / "classes.json").read_text()) == content
    assert (into / "train.txt").read_text().startswith("images/x.png labels/x.png\nimages/")
    rules, theirs = LabelRules(**read_classes(str(into))), np.array([names.index(name) for name in CLASSES])
    for row in split_files(str(into), "train").to_pylist()[1:]:
        (name,) = [name for name in shown(queue) if Path(row["uri"]).name.startswith(name.removesuffix(".jpg"))]
        label = rules.read(Path(row["label_uri"]).read_bytes(), *shown(queue)[name].shape)
        assert np.array_equal(label, theirs[corrected(queue)[name]])


def test_pixels_without_a_shape(scenes: Path, tmp_path: Path) -> None:
    """The sky is background: nobody draws it. Without a class for it, its pixels have none."""
    queue = tmp_path / "queue"
    arguments = ["--sink", SINK, "--out", str(queue), "--count", "2", "--background", "sky"]
    assert call_job("label_queue", *arguments)[0] == 0
    tasks = json.loads((queue / "label-studio" / "tasks.json").read_text())
    tasks = [{"data": task["data"], "annotations": [{"result": task["predictions"][0]["result"]}]} for task in tasks]
    (queue / "export.json").write_text(json.dumps(tasks))
    code, summary, said = merge(queue / "export.json", queue, tmp_path / "filled", "--fill", "sky")
    assert (code, summary["added"], summary["corrected"]) == (0, 2, 0), said
    assert all(
        np.array_equal(label, shown(queue)[name]) for name, label in training_labels(tmp_path / "filled", queue).items()
    )
    assert merge(queue / "export.json", queue, tmp_path / "ignored")[0] == 0
    for name, label in training_labels(tmp_path / "ignored", queue).items():
        assert np.array_equal(label, np.where(shown(queue)[name] == 0, 255, shown(queue)[name]))
    (tmp_path / "into").mkdir()
    content = json.loads((queue / "classes.json").read_text()) | {"ignore_index": None}
    (tmp_path / "into" / "classes.json").write_text(json.dumps(content))
    code, summary, said = merge(queue / "export.json", queue, tmp_path / "into")
    assert (code, summary["failed"]) == (1, {"bad_label": 2})
    assert "pixels have no class; fill names one for them" in said


def test_wrong_requests_write_nothing(queue: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    content = {"classes": ["sky", "sea"], "palette": [[0, 0, 1], [0, 0, 2]], "ignore_index": None}
    (into / "classes.json").write_text(json.dumps(content))
    labels, new = corrected_tasks(queue), tmp_path / "new"
    for arguments, error in (
        ((labels, queue, into), "does not have: 'building', 'field', 'tree'; it has sky, sea"),
        ((queue / "none.json", queue, new), "no such file"),
        ((queue / "label-studio" / "config.xml", queue, new), "must be the JSON that Label Studio exports, or annot"),
        ((queue / "manifest.parquet", queue, new), "must be the JSON that Label Studio exports, or annotations.xml"),
        ((labels, queue / "cvat", new), "needs classes.json"),
        ((labels, GOLDEN / "scenes", new), "has no manifest.parquet"),
        ((labels, queue, new, "--fill", "land"), "fill must be the name of a class (sky, hill"),
    ):
        code, summary, _ = merge(*arguments)
        assert (code, error in summary["error"]) == (2, True), summary
    assert [path.name for path in into.iterdir()] == ["classes.json"]
    assert not new.exists()
    for arguments, error in (
        (["--count", "0"], "LabelQueue.count must be at least 1"),
        (["--background", "sea"], "background must be names of classes"),
        (["--without", str(into)], "has no manifest.parquet"),
        (["--where", "nothing = 1"], "is no SQL condition"),
    ):
        code, summary, _ = call_job("label_queue", "--sink", SINK, "--out", str(new), *arguments)
        assert (code, error in summary["error"]) == (2, True), summary
    assert not new.exists()


def test_broken_shapes_fail_alone(queue: Path, tmp_path: Path) -> None:
    labels = corrected_tasks(queue)
    tasks = json.loads(labels.read_text())
    value = tasks[0]["annotations"][0]["result"][0]["value"]
    value["rle"] = value["rle"][:9]
    tasks[1]["annotations"][0]["result"][0] |= {"type": "ellipselabels"}
    tasks[2]["data"]["name"] = "other.jpg"
    labels.write_text(json.dumps(tasks))
    code, summary, said = merge(labels, queue, tmp_path / "into")
    assert (code, summary["failed"]) == (1, {"bad_label": 2, "not_found": 1})
    assert "a shape of class 'sky' is broken" in said
    assert "a shape of the type 'ellipselabels', which is not read here" in said
    assert "the queue has no input of this name" in said


def sink_of(folder: Path, **columns: list[Any]) -> CurrentRows:
    """The current rows of a table of images with these values in their columns."""
    schema, mask = TableSchema.of(TASK.schema, result="mask"), encode_mask(np.zeros((1, 1), np.uint8), TASK.palette)
    count = len(next(iter(columns.values())))
    same = {"mask": {"bytes": mask, "path": None}, "etag": "1", "model": "m", "settings": "s", "run_id": "1"}
    rows = [
        {"uri": str(folder / f"{number}.png"), **same, **{name: column[number] for name, column in columns.items()}}
        for number in range(count)
    ]
    table = Table(str(folder), schema)
    table.create()
    table.commit([table.write_part(pa.Table.from_pylist(rows, schema.columns), "1", "m")], run_id="1")
    return CurrentRows(str(folder), "error is null")


def test_a_queue_spreads_by_embedding(tmp_path: Path) -> None:
    """Ten rows of three kinds: the two most uncertain are alike, so the second one taken is of another kind."""
    kinds = [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]
    embedding = [[value + 0.01 * number for value in kinds[number % 3]] for number in range(10)]
    embedding[1] = embedding[0]
    current = sink_of(tmp_path, uncertainty=[1 - number / 10 for number in range(10)], embedding=embedding)
    rows, choices = choose(current, 3)
    (found,) = rows.pieces(["uri"])
    chosen = [int(Path(uri).stem) for uri in found["uri"].to_pylist()]
    assert {number % 3 if number != 1 else 0 for number in chosen} == {0, 1, 2}
    assert choices[chosen.index(0)].place == 0
    assert all("from the nearest one before it" in choice.why for choice in choices if choice.place)
    assert sorted(choice.place for choice in choose(current, 50)[1]) == list(range(10))


def test_without_embeddings_folders_share(tmp_path: Path) -> None:
    uris = [f"/{'a' if number < 8 else 'b'}/{number}.png" for number in range(10)]
    current = sink_of(tmp_path, uncertainty=[1 - number / 10 for number in range(10)], uri=uris)
    rows, _ = choose(current, 3)
    (found,) = rows.pieces(["uri"])
    assert found["uri"].to_pylist() == ["/a/0.png", "/a/1.png", "/a/2.png"]
    rows, _ = choose(current, 6)
    (found,) = rows.pieces(["uri"])
    assert [uri[:2] for uri in found["uri"].to_pylist()] == ["/a"] * 6
    more = sink_of(
        tmp_path / "more", uncertainty=[1.0] * 10, uri=[f"/{number // 2}/{number}.png" for number in range(10)]
    )
    rows, _ = choose(more, 4)
    (found,) = rows.pieces(["uri"])
    assert len({uri.rpartition("/")[0] for uri in found["uri"].to_pylist()}) >= 2


def test_levels_come_before_changes() -> None:
    """A shape of a higher level hides one that says something new."""
    before = np.array([[0, 0, 1]], np.uint8)
    whole = Shape(class_name="a", draw=lambda height, width: np.ones((height, width), bool), level=1)
    new = Shape(class_name="b", draw=lambda height, width: np.array([[True, False, True]]))
    item = Annotated(name="x", height=1, width=3, shapes=[new, whole])
    assert item.label({"a": 0, "b": 1}, None, before).tolist() == [[0, 0, 0]]
    same = Annotated(name="x", height=1, width=3, shapes=[new, Shape(class_name="a", draw=whole.draw)])
    assert same.label({"a": 0, "b": 1}, None, before).tolist() == [[1, 0, 0]], "both were painted over the other"


MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(MASKS)
def test_shapes_are_drawn_as_they_were_written(mask: np.ndarray) -> None:
    assert (from_brush_bytes(list(brush_bytes(mask)), *mask.shape) == mask).all()
    assert (from_run_lengths(run_lengths(mask.ravel()).tolist(), mask.size).reshape(mask.shape) == mask).all()
    found = np.zeros(mask.shape, bool)
    for region in regions(mask.astype(np.uint8), without=[0]):
        for outline in polygons(region):
            found |= filled(np.array(outline).reshape(-1, 2), *mask.shape)
    assert (found == mask).all()


@given(MASKS, st.integers(0, 60))
def test_brushes_that_are_cut_are_broken(mask: np.ndarray, left: int) -> None:
    data = list(brush_bytes(mask))
    with pytest.raises(ValueError, match="brush"):
        from_brush_bytes(data[: min(left, len(data) - 2)], *mask.shape)


@pytest.mark.heavy
@pytest.mark.ray
def test_a_training_takes_what_was_merged(cluster: None, queue: Path, tmp_path: Path) -> None:
    assert merge(corrected_archive(queue), queue, tmp_path / "into")[0] == 0
    arguments = ["--images", str(tmp_path / "into"), "--out", str(tmp_path / "model"), "--train.epochs", "1"]
    small = ["--height-px", "24", "--width-px", "32", "--widths", "[8,16]", "--blocks", "[1,1]"]
    code, summary, said = call_job("train_image_segmenter", *arguments, *small)
    assert (code, summary["status"]) == (0, "done"), said


_TOOLS = """
import json, sys
import numpy as np
place, queue = sys.argv[1:]
right = dict(np.load(place + "/right.npz"))
classes = json.load(open(queue + "/classes.json"))["classes"]
from label_studio_sdk.converter.brush import encode_rle
tasks = json.load(open(queue + "/label-studio/tasks.json"))
for task in tasks:
    results = task["predictions"][0]["result"]
    for result in results:
        inside = right[task["data"]["name"]] == classes.index(result["value"]["brushlabels"][0])
        result["value"]["rle"] = encode_rle(np.repeat(inside.astype(np.uint8).ravel() * 255, 4))
    task["annotations"] = [{"result": results}]
json.dump(tasks, open(place + "/studio.json", "w"))
from datumaro.components.annotation import Mask
from datumaro.components.dataset import Dataset
dataset = Dataset.import_from(queue + "/cvat", "cvat")
for item in dataset:
    mask = right[item.id + ".jpg"]
    item.annotations = [Mask(mask == number, label=number) for number in np.unique(mask).tolist()]
dataset.export(place + "/corrected", "cvat", save_media=False)
print("written")
"""


@pytest.mark.heavy
def test_corrections_by_the_libraries_of_the_tools(queue: Path, tmp_path: Path) -> None:
    """Label Studio's SDK and datumaro write the labels, in an environment of their own."""
    environment = os.environ.get("PARQUETRY_LABEL_TOOLS")
    if environment is None:
        environment = str(tmp_path / "venv")
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        wanted = ("label-studio-sdk", "datumaro")
        made = subprocess.run([f"{environment}/bin/pip", "install", "-q", *wanted], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the package index cannot be reached: {made.stderr.strip().splitlines()[-1]}")
    right = {name: np.where(mask == 2, 0, mask) for name, mask in shown(queue).items()}
    np.savez(tmp_path / "right.npz", **right)
    shutil.copytree(queue / "images", queue / "cvat" / "images")  # datumaro looks for them there
    command = [f"{environment}/bin/python", "-c", _TOOLS, str(tmp_path), str(queue)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (xml,) = (tmp_path / "corrected").rglob("*.xml")
    for labels in (tmp_path / "studio.json", xml):
        into = tmp_path / labels.stem
        code, summary, said = merge(labels, queue, into)
        assert (code, summary["added"]) == (0, 4), said
        assert all(np.array_equal(label, right[name]) for name, label in training_labels(into, queue).items())
