"""The baseline of single pixels: its tensors say what the fitted trees say, and it survives a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import package
from pipeline.errors import RequestError
from pipeline.images.labels import described_classes
from pipeline.images.pixel_baseline import as_segmenter, baseline, fit_trees
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.pixels import FEATURES, Pixels, PixelsConfig, pixel_features
from pipeline.training.samples import Samples

PALETTE = [[0, 0, 0], [9, 9, 9], [99, 99, 99]]


def task(classes: int) -> ImageSegmentation:
    names = ["dark", "bright", "absent"][:classes]
    described = described_classes({"classes": names, "palette": PALETTE[:classes], "ignore_index": 255})
    return ImageSegmentation(**described, height_px=24, width_px=32)


def samples(seed: int, present: int) -> Samples:
    """Noise in which bright pixels have class 1, and the lower edge class 2 if there are three."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (6, 24, 32, 3), np.uint8)
    label = (image.mean(3) > 127).astype(np.uint8)
    label[:, 0] = 255
    if present == 3:
        label[:, 20:] = 2
    columns = {"image": [one.tobytes() for one in image], "label": [one.tobytes() for one in label]}
    return Samples([pa.table(columns, pa.schema([(name, pa.large_binary()) for name in columns]))])


@pytest.mark.parametrize(("classes", "present"), [(2, 2), (3, 2), (3, 3)])
def test_tensors_say_what_the_trees_say(classes: int, present: int, tmp_path: Path) -> None:
    settings = task(classes)
    fitted, _ = fit_trees(settings, samples(0, present))
    model = as_segmenter(fitted, classes)
    saved = package.save(str(tmp_path / "package"), model_name="pixels", model=model, task=settings, card={})
    model = package.load(saved.uri).model()
    image = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = model(image).argmax(1)
    features = pixel_features(image).permute(0, 2, 3, 1).reshape(-1, FEATURES).numpy()
    expected = fitted.predict(features).reshape(found.shape)
    assert np.mean(found.numpy() != expected) < 1e-3


def test_the_figures_of_the_baselines() -> None:
    found = baseline(task(3), samples(0, 3), samples(1, 3))
    assert found.pixels_miou > 0.8, "all that the labels depend on is in the features"
    assert 0.05 < found.majority_miou < 0.3


def test_features() -> None:
    image = torch.zeros(1, 3, 9, 12)
    image[0, 1, 4, 6] = 1
    found = pixel_features(image)[0]
    assert found.shape == (FEATURES, 9, 12)
    assert torch.equal(found[:3], image[0])
    assert found[4].sum() == pytest.approx(1, abs=0.05)
    assert float(found[4].max()) == float(found[4, 4, 6])
    assert found[9, :, 0].tolist() == pytest.approx([(row + 0.5) / 9 for row in range(9)])
    assert found[10, 0].tolist() == pytest.approx([(column + 0.5) / 12 for column in range(12)])


def test_wrong_settings_and_channels() -> None:
    with pytest.raises(RequestError, match=r"PixelsConfig.trees must be at least 1, got 0"):
        PixelsConfig(classes=2, trees=0)
    with pytest.raises(RequestError, match=r"PixelsConfig.channels must be 3, got 1"):
        PixelsConfig(classes=2, channels=1)
    with pytest.raises(RequestError, match=r"PixelsConfig.channels is 3, but images have 4"):
        Pixels(PixelsConfig(classes=2))(torch.zeros(1, 4, 8, 8))


def test_arrays_that_are_no_trees_are_refused() -> None:
    model = Pixels(PixelsConfig(classes=2, trees=1, nodes=3))
    model.left[1, 0] = torch.tensor([1, 0, 2], dtype=torch.int32)  # node 1 leads back to the root
    model.right[1, 0] = torch.tensor([2, 2, 2], dtype=torch.int32)
    with pytest.raises(RequestError, match="node 0 is outside of its tree, in it twice"):
        model(torch.zeros(1, 3, 8, 8))
