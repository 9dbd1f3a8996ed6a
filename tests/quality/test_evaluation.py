"""Evaluation says what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import package
from pipeline.distributed.stages import StreamConfig
from pipeline.examples.scenes import CLASSES, PALETTE, scene, write_scenes
from pipeline.images.inputs import decode_label
from pipeline.images.metrics import confusion_matrix, miou
from pipeline.images.outputs import decode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.quality.evaluation import evaluate_images
from pipeline.source.labelled import split_files
from testing.equality import table_rows
from testing.runs import new_run


@pytest.mark.ray
def test_the_masks_in_the_table_give_the_metrics_of_evaluate(cluster: None, tmp_path: Path) -> None:
    folder, sink = tmp_path / "scenes", tmp_path / "sink"
    write_scenes(str(folder), {"test": 10}, height=50, width=70)
    (folder / "labels/test/0004.png").write_bytes(b"no label")
    task = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=32, width_px=48)
    torch.manual_seed(3)
    written = package.save(
        str(tmp_path / "package"),
        model_name="unet",
        model=UNet(UNetConfig(classes=5, widths=(8, 16), blocks=(1, 1))),
        task=task,
        card={},
    )
    run = new_run([folder / "images"], written, sink, task=task, stream=StreamConfig(actors=1, batch_rows=3))
    assert run.live().exit_code == 0
    confusion = torch.zeros(5, 5, dtype=torch.float64)
    for row in table_rows(str(sink)):
        label = Path(row["uri"].replace("images", "labels").replace(".jpg", ".png"))
        if label.name != "0004.png":
            truth = decode_label(label.read_bytes(), row["height"], row["width"]).astype(np.int64)
            mask = decode_mask(row["mask"]["bytes"]).astype(np.int64)
            confusion += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(mask), 5)
    found = evaluate_images(task, written.model(), split_files(str(folder), "test"))
    assert found.metrics["miou"] == pytest.approx(miou(confusion), abs=1e-6)
    assert found.failed == {"bad_label": 1}
    assert [detail["pixels"] for detail in found.details] == confusion.sum(1).int().tolist()
    assert len(found.pictures) == 18


def test_scenes_are_a_function_of_the_seed() -> None:
    one, again, other = scene(1, 40, 60), scene(1, 40, 60), scene(2, 40, 60)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert one[0].shape == (40, 60, 3)
    assert set(np.unique(one[1])) <= set(range(len(CLASSES)))
