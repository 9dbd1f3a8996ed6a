"""Exports of tables, by the command, and `open_sink`. What other tools read, they read here, if they are there."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import InputError, RequestError
from pipeline.images.outputs import decode_mask
from pipeline.sinks import open_sink
from pipeline.table.delta import Table
from pipeline.table.schema import TableSchema
from pipeline.text.task import TextSegmentation
from testing.golden import GOLDEN, scenes_in_place
from testing.jobs import call_job

SINK = str(GOLDEN / "sink-whole")
TEXT = "One. Two 💩.\n\nThree.  \n"
SPANS = [(0, 13), (13, len(TEXT))]


def masks() -> list[np.ndarray]:
    return [decode_mask(row["mask"]["bytes"]) for row in open_sink(SINK).rows().to_pylist()]


def document(path: Path, run_id: str = "2", text: str = TEXT, error: Any = None) -> dict[str, Any]:
    done = {
        "num_chars": len(text),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "paragraphs": [{"start": start, "end": end, "score": 1.0} for start, end in SPANS],
        "num_paragraphs": len(SPANS),
        "confidence": 0.75,
    }
    where = {"uri": str(path), "etag": "t", "model": "m", "settings": "s", "run_id": run_id, "error": error}
    return where if error else where | done


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A sink with an older and the newest row of a document, one that is gone, a changed one, and a failed one."""
    (tmp_path / "docs").mkdir()
    for name in ("a.txt", "changed.txt"):
        (tmp_path / "docs" / name).write_bytes(TEXT.encode())
    failed = {"stage": "prepare", "code": "empty", "message": "the file has no bytes"}
    rows = [
        document(tmp_path / "docs/a.txt", "1", "older"),
        document(tmp_path / "docs/a.txt"),
        document(tmp_path / "docs/gone.txt"),
        document(tmp_path / "docs/changed.txt", text="other"),
        document(tmp_path / "docs/failed.txt", error=failed),
    ]
    schema = TableSchema.of(TextSegmentation().schema, result="paragraphs")
    table = Table(str(tmp_path / "sink"), schema)
    table.create()
    for run in ("1", "2"):
        chosen = pa.Table.from_pylist([row for row in rows if row["run_id"] == run], schema.columns)
        part = table.write_part(chosen, run, "m")
        table.commit([part], run_id=run)
    return tmp_path / "sink"


def test_png(tmp_path: Path) -> None:
    code, summary, err = call_job("export", "--sink", SINK, "--to", "png", "--out", str(tmp_path / "out"))
    assert (code, summary["exported"]) == (0, 11), err
    with (tmp_path / "out/manifest.csv").open() as file:
        listed = list(csv.DictReader(file))
    rows = {row["uri"]: row for row in open_sink(SINK).rows().to_pylist()}
    assert {row["uri"] for row in listed} == set(rows)
    for row in listed:
        found = np.array(Image.open(tmp_path / "out" / row["file"]))
        assert (found == decode_mask(rows[row["uri"]]["mask"]["bytes"])).all()
    assert json.loads((tmp_path / "out/classes.json").read_text())["classes"][0] == "sky"


def test_backgrounds_have_no_annotations(tmp_path: Path) -> None:
    arguments = ("--sink", SINK, "--to", "coco", "--out", str(tmp_path / "out"))
    code, _, err = call_job("export", *arguments, "--background", "sky", "--background", "hill")
    assert code == 0, err
    found = json.loads((tmp_path / "out/instances.json").read_text())
    assert [item["id"] for item in found["categories"]] == [3, 4, 5]
    pixels = sum((mask > 1).sum() for mask in masks())
    assert sum(item["area"] for item in found["annotations"]) == pixels > 0
    assert os.listdir(tmp_path / "out") == ["instances.json"]


def test_where_and_limit(tmp_path: Path) -> None:
    arguments = ("--sink", SINK, "--to", "png", "--out", str(tmp_path / "out"))
    code, summary, err = call_job("export", *arguments, "--where", "uri like '%/val/%'", "--limit", "2")
    assert (code, summary["exported"]) == (0, 2), err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--to", "text"], "to must be one of png, coco, label-studio, cvat, huggingface for a table of images"),
        (["--to", "coco", "--background", "sea"], "background must be names of classes (sky, hill"),
        (["--to", "png", "--polygons"], "Export.polygons must be false unless to is coco"),
        (["--to", "png", "--where", "nothing = 1"], "is no SQL condition"),
        (["--to", "png", "--limit", "0"], "Export.limit must be at least 1"),
    ],
)
def test_wrong_requests_write_nothing(arguments: list[str], error: str, tmp_path: Path) -> None:
    code, summary, _ = call_job("export", "--sink", SINK, "--out", str(tmp_path / "out"), *arguments)
    assert (code, error in summary["error"]) == (2, True), summary
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    code, summary, _ = call_job("export", "--sink", SINK, "--to", "png", "--out", str(tmp_path))
    assert (code, "out must be a new or empty folder" in summary["error"]) == (2, True)
    assert os.listdir(tmp_path) == ["mine"]


def test_text(documents: Path, tmp_path: Path) -> None:
    code, summary, err = call_job("export", "--sink", str(documents), "--to", "text", "--out", str(tmp_path / "out"))
    assert (code, summary["exported"], summary["left_out"], summary["unreadable"]) == (0, 1, 1, 2), err
    assert (tmp_path / "out/a.txt").read_text() == "One. Two 💩.\n\nThree.\n"
    assert "gone.txt: not_found" in err
    assert "changed.txt: changed" in err


def test_nothing_could_be_exported(documents: Path, tmp_path: Path) -> None:
    arguments = ("--sink", str(documents), "--to", "text", "--out", str(tmp_path / "out"), "--where")
    code, summary, _ = call_job("export", *arguments, "uri like '%gone%'")
    assert (code, summary["status"]) == (1, "failed")
    code, summary, _ = call_job("export", *arguments, "false")
    assert (code, summary["exported"]) == (0, 0)


def test_label_studio_of_documents(documents: Path, tmp_path: Path) -> None:
    call_job("export", "--sink", str(documents), "--to", "label-studio", "--out", str(tmp_path / "out"))
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    values = [item["value"] for item in task["predictions"][0]["result"]]
    assert [(value["start"], value["end"]) for value in values] == SPANS
    assert "".join(value["text"] for value in values) == task["data"]["text"] == TEXT


@pytest.mark.slow
def test_huggingface(documents: Path, tmp_path: Path) -> None:
    import datasets

    for name, sink in (("masks", SINK), ("documents", str(documents))):
        call_job("export", "--sink", sink, "--to", "huggingface", "--out", str(tmp_path / name))
    loaded: Any = datasets.load_dataset(str(tmp_path / "masks"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["mask"], datasets.Image)
    assert all((np.array(row["mask"]) == mask).all() for row, mask in zip(loaded, masks(), strict=True))
    loaded = datasets.load_dataset(str(tmp_path / "documents"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["text"] for row in loaded] == [TEXT]


def test_sink_of_documents(documents: Path) -> None:
    sink = open_sink(str(documents))
    rows = {Path(row["uri"]).name: row for row in sink.rows().to_pylist()}
    assert len(rows) == 4
    assert sink.paragraphs(rows["a.txt"]) == ["One. Two 💩.\n\n", "Three.  \n"]
    with pytest.raises(InputError, match=r"changed\.txt: the document is not the one"):
        sink.paragraphs(rows["changed.txt"])
    with pytest.raises(RequestError, match="failed input: empty"):
        sink.paragraphs(rows["failed.txt"])
    with pytest.raises(RequestError, match="neither a run nor a file there says"):
        _ = sink.classes
    assert sink.rows("confidence < 0", ["uri"]).num_rows == 0
    assert sink.rows("run_id = '1'").num_rows == 0, "an older row is not a current one"


def test_sink_of_images() -> None:
    with scenes_in_place() as scenes:
        sink = open_sink(SINK)
        row = sink.rows().to_pylist()[0]
        assert sink.classes == ("sky", "hill", "field", "building", "tree")
        assert len(sink.palette) == 5
        assert sink.mask(row).shape == (row["height"], row["width"])
        shown = sink.overlay(row)
        assert (shown.shape, shown.dtype) == ((row["height"], row["width"], 3), np.uint8)
        os.utime(scenes / Path(row["uri"]).relative_to(scenes), (1, 1))
        with pytest.raises(InputError, match="the image is not the one that was segmented"):
            open_sink(SINK).overlay(row)
    with pytest.raises(InputError, match="not there any more"):
        open_sink(SINK).overlay(row)
    with pytest.raises(RequestError, match="no column 'nothing'"):
        open_sink(SINK).rows(columns=["nothing"])


_LOADERS = """
import json, sys
import numpy as np
from pycocotools.coco import COCO
out = sys.argv[1]
truth = np.load(out + "/masks.npz")
classes = json.load(open(out + "/classes.json"))
for name in ("runs", "polygons"):
    coco = COCO(out + "/" + name + "/instances.json")
    for number, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
        found = np.zeros((image["height"], image["width"]), int)
        for item in coco.loadAnns(coco.getAnnIds(image["id"])):
            inside = coco.annToMask(item).astype(bool)
            assert inside.sum() == item["area"], (name, inside.sum(), item["area"])
            found[inside] = item["category_id"]
        assert (found == truth[str(number)].astype(int) + 1).all(), name
from label_studio_sdk.converter.brush import decode_rle
tasks = json.load(open(out + "/label-studio/tasks.json"))
for number, task in enumerate(tasks):
    mask = truth[str(number)]
    for item in task["predictions"][0]["result"]:
        value = item["value"]
        found = decode_rle(value["rle"]).reshape(*mask.shape, 4)[..., 3] == 255
        assert (found == (mask == classes.index(value["brushlabels"][0]))).all()
from datumaro.components.dataset import Dataset
dataset = Dataset.import_from(out + "/cvat", "cvat")
names = [info.name for info in dataset.categories()[next(iter(dataset.categories()))]]
for number, task in enumerate(tasks):
    mask = truth[str(number)]
    (item,) = [item for item in dataset if task["data"]["uri"].endswith(item.id + ".jpg")]
    found = np.full(mask.shape, 255)
    for region in item.annotations:
        found[region.image.astype(bool)] = classes.index(names[region.label])
    assert (found == mask).all(), item.id
print("sound")
"""


@pytest.mark.heavy
def test_what_other_tools_read(tmp_path: Path) -> None:
    """pycocotools, Label Studio's SDK and datumaro, in an environment of their own."""
    environment = os.environ.get("PARQUETRY_LABEL_TOOLS")
    if environment is None:
        environment = str(tmp_path / "venv")
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        wanted = ("pycocotools", "label-studio-sdk", "datumaro")
        made = subprocess.run([f"{environment}/bin/pip", "install", "-q", *wanted], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the package index cannot be reached: {made.stderr.strip().splitlines()[-1]}")
    forms = {"runs": ["coco"], "polygons": ["coco", "--polygons"], "label-studio": ["label-studio"], "cvat": ["cvat"]}
    for name, form in forms.items():
        code, _, err = call_job("export", "--sink", SINK, "--out", str(tmp_path / name), "--to", *form)
        assert code == 0, err
    np.savez(tmp_path / "masks.npz", **{str(number): mask for number, mask in enumerate(masks())})
    (tmp_path / "classes.json").write_text(json.dumps(open_sink(SINK).classes))
    for image in json.loads((tmp_path / "runs/instances.json").read_text())["images"]:
        path = tmp_path / "cvat/images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(path)
    done = subprocess.run([f"{environment}/bin/python", "-c", _LOADERS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("sound")
