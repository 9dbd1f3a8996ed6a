"""Labels of other forms become class ids that a training reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.inputs import decode_label
from testing.jobs import call_job

COLORS = [[9, 9, 200], [200, 9, 9]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "from" / "a").mkdir(parents=True)
    described = {"classes": ["calm", "storm"], "palette": COLORS, "labels": "rgb", "ignore_color": "#000000"}
    (tmp_path / "classes.json").write_text(json.dumps(described))
    return tmp_path


def convert(folder: Path, form: str, *more: str) -> tuple[int, dict, str]:
    places = ["--labels", str(folder / "from"), "--out", str(folder / "to")]
    return call_job("convert_labels", *places, "--form", form, *more)


@pytest.mark.parametrize(
    ("form", "stored", "expected"),
    [
        ("rgb", np.array([[COLORS[1], COLORS[0], [0, 0, 0]]], np.uint8), [[1, 0, 255]]),
        ("mask", np.array([[255, 0, 255]], np.uint8), [[1, 0, 1]]),
        ("mask", np.array([[[255] * 3, [0] * 3, [255] * 3]], np.uint8), [[1, 0, 1]]),
        ("mask", np.array([[True, False, True]]), [[1, 0, 1]]),
        ("instances", np.array([[0, 7, 300]], np.uint16), [[0, 1, 1]]),
        ("instances", np.array([[0, 7, 30]], np.uint8), [[0, 1, 1]]),
    ],
)
def test_forms(folder: Path, form: str, stored: np.ndarray, expected: list[list[int]]) -> None:
    Image.fromarray(stored).save(folder / "from" / "a" / "x.PNG")
    (folder / "from" / "notes.txt").write_text("no label")
    code, summary, err = convert(folder, form, "--classes", str(folder))
    assert (code, summary.get("converted")) == (0, 1), err
    data = (folder / "to" / "a" / "x.PNG").read_bytes()
    assert decode_label(data, 1, 3).tolist() == expected
    with Image.open(folder / "to" / "a" / "x.PNG") as picture:
        assert picture.getpalette()[:6] == COLORS[0] + COLORS[1]


def test_what_is_of_another_form_fails_alone(folder: Path) -> None:
    for name, value in (("good", 255), ("gray", 128)):
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(folder / "from" / f"{name}.png")
    (folder / "from" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, summary, err = convert(folder, "mask")
    assert (code, summary["converted"], sum(summary["failed"].values())) == (0, 1, 2)
    assert "from/gray.png: bad_label, the mask has the value 128, which is neither 0 nor 255" in err
    assert len((folder / "to" / "failed_inputs.jsonl").read_text().splitlines()) == 2
    (folder / "from" / "good.png").unlink()
    code, summary, _ = convert(folder, "mask")
    assert (code, "none could be converted: " in summary["error"]) == (2, True)


def test_wrong_requests(folder: Path) -> None:
    assert "ConvertLabels.classes must be given for labels in colours" in convert(folder, "rgb")[1]["error"]
    assert "there is no PNG file" in convert(folder, "mask")[1]["error"]
    for labels, out in ((folder, f"{folder}/"), (folder, folder / "to"), (folder / "from", folder)):
        code, summary, _ = call_job("convert_labels", "--labels", str(labels), "--out", str(out), "--form", "mask")
        assert (code, "ConvertLabels.out must be another folder than labels" in summary["error"]) == (2, True)
