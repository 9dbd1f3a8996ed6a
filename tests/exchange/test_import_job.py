"""The way of a network from elsewhere: from its file to a package, an evaluation, a table and a report."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, package
from pipeline.errors import RequestError
from pipeline.exchange.probing import drawn_images
from pipeline.images.novelty import Reference
from pipeline.images.outputs import decode_mask
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.inference import predictions
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.segmenters.onnx import Onnx, OnnxFile
from pipeline.quality.audit import audit
from pipeline.source.labelled import split_files
from testing.equality import table_rows
from testing.jobs import call_job
from testing.onnx_networks import Network
from testing.runs import TASK, write_images, write_package
from tests.exchange.test_probing import probed, reference

#: As another exporter than torch's makes them: channels last, BGR, one size, probabilities at a quarter of the size.
NETWORK = Network(layout="nhwc", height=24, width=40, batch=1, classes=21, end="softmax", stride=4)
CLASSES = {
    "classes": [f"class {index}" for index in range(21)],
    "palette": [[12 * index, 255 - 12 * index, 40] for index in range(21)],
    "ignore_index": 255,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The file of the network, and a labelled folder whose labels are what the network computes, by torch."""
    (tmp_path / "network.onnx").write_bytes(NETWORK.onnx())
    data = tmp_path / "data"
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    images = (drawn_images(4, 24, 40) * 255).round()
    masks = reference(NETWORK, {"order": "bgr"}, images / 255)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(data / "images" / f"{index}.png")
        Image.fromarray(mask.byte().numpy()).save(data / "labels" / f"{index}.png")
    (data / "classes.json").write_text(json.dumps(CLASSES))
    (data / "val.txt").write_text("".join(f"images/{index}.png labels/{index}.png\n" for index in range(4)))
    return tmp_path


def imported(folder: Path, *more: str, out: str = "package") -> tuple[int, dict[str, Any], str]:
    given = {"onnx": "network.onnx", "classes": "data/classes.json", "out": out}
    named = [item for name, value in given.items() for item in (f"--{name}", str(folder / value))]
    return call_job("import_segmenter", *named, "--channels", "bgr", *more)


def test_a_network_from_elsewhere_is_evaluated(folder: Path) -> None:
    code, summary, err = imported(folder)
    assert code == 0, (summary, err)
    assert (summary["layout"], summary["gives"], summary["input_size"]) == ("nhwc", "probabilities", [24, 40])
    assert "probabilities at 1/4 of the size (--gives) of 'result'" in err
    code, summary, err = call_job(
        "evaluate", "--model", str(folder / "package"), "--data", str(folder / "data"), "--split", "val"
    )
    assert code == 0, err
    assert summary["metrics"]["global_accuracy"] > 0.999
    assert Path(summary["report"]).exists()

    (folder / "package" / "files" / "model.onnx").unlink()
    assert imported(folder)[0] == 0, "the same network again"
    assert (folder / "package" / "files" / "model.onnx").read_bytes() == NETWORK.onnx(), "what was lost is there again"

    (folder / "network.onnx").write_bytes(Network(**{**vars(NETWORK), "seed": 1, "weights": {}}).onnx())
    code, summary, _ = imported(folder)
    assert code == 2, "another network"
    assert summary["error"] == f"out '{folder / 'package'}' holds another model package; choose another"


def test_the_files_of_a_package_are_checked(folder: Path) -> None:
    loaded = package.load(_imported_package(folder / "package"), ImageSegmentation.kind)
    loaded.model()
    file = folder / "package" / "files" / "model.onnx"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(RequestError, match=r"files/model\.onnx is not the one that config\.json names"):
        loaded.model()
    file.unlink()
    with pytest.raises(RequestError, match=r"files/model\.onnx cannot be read"):
        loaded.model()


def test_a_package_names_no_file_outside_of_it(folder: Path) -> None:
    where = _imported_package(folder / "package")
    file = folder / "package" / "config.json"
    for name in ("../secret", "/etc/passwd", "a/b", ".."):
        content = json.loads(file.read_text())
        content["model"]["config"]["files"][0]["name"] = name
        file.write_text(json.dumps(content))
        with pytest.raises(RequestError, match=r"OnnxFile\.name must be the name of a file without a folder"):
            package.load(where).model()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--input-size", "24"), "--input-size must be of type list of 2 int | null, got '24'"),
        (("--input-size", "24", "40", "3"), "--input-size must have 2 values, got 24 40 3"),
        (("--mean", "104", "117", "123"), "ImportSegmenter.mean must be that of images in [0, 1], or --scale 1"),
        (("--std", "1", "0", "1"), "ImportSegmenter.std must be 3 positive numbers"),
        (("--classes", "nowhere.json"), "classes 'nowhere.json': there is no such file"),
        (("--novelty", "nowhere"), "no model package at"),
        (("--onnx", "nowhere.onnx"), "nowhere.onnx': there is no such file"),
    ],
)
def test_wrong_settings_get_a_line(folder: Path, arguments: tuple[str, ...], line: str) -> None:
    code, summary, _ = imported(folder, *arguments)
    assert code == 2
    assert line in summary["error"]


def test_without_onnx_runtime_there_is_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _imported_package(folder / "package")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = "ONNX Runtime is not installed here: pip install 'parquetry[onnx]'"
    code, summary, _ = imported(folder, out="other")
    assert (code, line in summary["error"]) == (2, True)
    (folder / "data" / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "palette": ["#000000"] * 3}))
    code, summary, _ = call_job("evaluate", "--model", model, "--data", str(folder / "data"), "--split", "val")
    assert (code, line in summary["error"]) == (2, True)


def test_classes_must_be_given_where_the_file_does_not_name_them(folder: Path) -> None:
    code, summary, _ = call_job(
        "import_segmenter", "--onnx", str(folder / "network.onnx"), "--out", str(folder / "package")
    )
    assert code == 2
    assert "does not name its classes: give --classes FILE" in summary["error"]


def test_an_imported_network_can_carry_an_autoencoder(folder: Path) -> None:
    small = ConvVAEConfig(widths=(8, 16), blocks=(0, 0), decoder_blocks=(0, 0), latent_channels=2)
    task = ImageReconstruction(height_px=24, width_px=40)
    known = replace(task, reference=Reference(complexity_weight=0.0, quantiles=(0.0, 100.0)))
    for name, one in (("unknown", task), ("autoencoder", known)):
        package.save(str(folder / name), model_name="conv_vae", model=ConvVAE(small), task=one, card={})
    code, summary, _ = imported(folder, "--novelty", str(folder / "unknown"))
    assert code == 2
    assert "has no reference to tell percentiles by" in summary["error"]

    assert imported(folder, "--novelty", str(folder / "autoencoder"))[0] == 0
    loaded = package.load(str(folder / "package"))
    task_of = config.from_dict(ImageSegmentation, loaded.task)
    failed: list[Any] = []
    inputs = split_files(str(folder / "data"), "val")
    ((_, _, _, found),) = predictions(task_of, loaded.model(), inputs, failed, torch.device("cpu"))
    assert not failed
    assert all(0 <= value <= 100 for value in found["novelty"].to_pylist())


@pytest.mark.ray
def test_a_night_takes_imported_networks_beside_ours(cluster: None, tmp_path: Path) -> None:
    """The same folder by both gives two sinks and two reports. A pilot then compares the imported one with ours."""
    write_images(tmp_path / "images", 12)
    ours, theirs = write_package(tmp_path / "ours", 0), _imported_package(tmp_path / "theirs")
    code, summary, err = _night(tmp_path, ours, theirs)
    assert code == 0, err
    for name, found in summary["sources"].items():
        assert found["done"] == 12
        assert Path(found["report"]).exists()
        assert not any(audit(str(tmp_path / name)).counts.values())
    one, other = (
        {Path(row["uri"]).name: row["mask"]["bytes"] for row in table_rows(str(tmp_path / name))}
        for name in ("sink-ours", "sink-theirs")
    )
    assert one.keys() == other.keys()
    assert one != other

    code, summary, err = _night(tmp_path, theirs, theirs)
    assert code == 4, err
    found = summary["sources"]["sink-ours"]
    assert found["compared"]["pairs"] == 12
    assert found["gates"]


def _imported_package(folder: Path) -> str:
    network = Network()
    data = network.onnx()
    model = Onnx(replace(probed(network).config, files=(OnnxFile(name="model.onnx", sha256=sha256(data).hexdigest()),)))
    files = {"model.onnx": data}
    return package.save(str(folder), model_name="onnx", model=model, task=TASK, card={}, files=files).uri


def _night(place: Path, ours: str, theirs: str) -> tuple[int, dict[str, Any], str]:
    sources = {
        name: {
            "kind": "images",
            "source": str(place / "images"),
            "model": model,
            "sink": str(place / name),
            "pilot_inputs": 12,
            "settings": {"stream": {"actors": 1, "batch_rows": 4, "block_rows": 8}},
        }
        for name, model in (("sink-ours", ours), ("sink-theirs", theirs))
    }
    content = {"folder": str(place / "nights"), "sources": sources, "gates": {"min_mean_iou": 0.9}}
    (place / "night.yaml").write_text(yaml.safe_dump(content))
    return call_job("nightly", "--config", str(place / "night.yaml"))


def _text_detector() -> Path | None:
    """The network that finds text in the package rapidocr, which is not one of ours."""
    found = importlib.util.find_spec("rapidocr")
    files = [] if found is None or found.origin is None else Path(found.origin).parent.glob("models/*det*.onnx")
    return next(iter(sorted(files)), None)


@pytest.mark.ray
@pytest.mark.skipif(_text_detector() is None, reason="the package rapidocr, with a network to import, is not installed")
def test_a_network_of_strangers_in_two_commands(cluster: None, tmp_path: Path) -> None:
    """A text detector: images of any size, padded to multiples of 32, and the probability of text at each pixel."""
    file = _text_detector()
    (tmp_path / "classes.json").write_text('{"classes": ["background", "text"], "palette": ["#000000", "#ff8000"]}')
    page = Image.new("RGB", (460, 300), "white")
    ImageDraw.Draw(page).text((40, 60), "Parquetry", fill="black", font=ImageFont.load_default(60))
    (tmp_path / "pages").mkdir()
    page.save(tmp_path / "pages" / "page.png")
    given = ("--onnx", str(file), "--classes", str(tmp_path / "classes.json"), "--out", str(tmp_path / "detector"))
    values = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225", "--channels", "bgr")
    code, summary, err = call_job("import_segmenter", *given, *values, "--input-size", "320", "480")
    assert code == 0, (summary, err)
    assert (summary["gives"], summary["multiple_px"]) == ("object_probability", 32)
    named = (
        "--source",
        str(tmp_path / "pages"),
        "--model",
        str(tmp_path / "detector"),
        "--sink",
        str(tmp_path / "sink"),
    )
    code, summary, err = call_job("segment_images", *named)
    assert (code, summary["done"]) == (0, 1), err
    (row,) = table_rows(str(tmp_path / "sink"))
    mask = decode_mask(row["mask"]["bytes"])
    rows, columns = np.nonzero(mask)
    assert 50 < rows.min() < rows.max() < 150, "where the word is"
    assert 30 < columns.min() < columns.max() < 400
    assert "text" in Path(summary["report"]).read_text()
