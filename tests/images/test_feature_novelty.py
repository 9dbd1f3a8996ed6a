"""Novelty by the segmenter's own features: far images are far, percentiles are true, and a column that tells nothing
is null and says why."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import from_dict, to_dict
from pipeline.feature_gaussian import auroc
from pipeline.images.feature_novelty import STRANGE, features, reference
from pipeline.images.labels import described_classes
from pipeline.images.task import ImageSegmentation
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.rows import INPUT_SCHEMA
from testing.broken_images import encoded

CLASSES = {"classes": ["dark", "bright"], "palette": [[0, 0, 0], [9, 9, 9]], "ignore_index": 255}
CPU = torch.device("cpu")


def task(**settings: object) -> ImageSegmentation:
    return ImageSegmentation(**described_classes(CLASSES), **({"height_px": 32, "width_px": 32} | settings))


def model() -> Segmenter:
    torch.manual_seed(0)
    return UNet(UNetConfig(classes=2, widths=(8, 16, 16), blocks=(1, 1, 1))).eval()


def samples(settings: ImageSegmentation, count: int, seed: int = 0) -> pa.Table:
    """Squares on a dark ground, and their labels."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(count):
        label = np.zeros((32, 32), np.uint8)
        top, left, side = random.integers(0, 16), random.integers(0, 16), random.integers(8, 16)
        label[top : top + side, left : left + side] = 1
        pixels = np.where(label[..., None] == 1, [200, 190, 60], [30, 40, 60]) + random.normal(0, 6, (32, 32, 3))
        images.append(encoded(pixels.clip(0, 255).astype(np.uint8), "PNG"))
        labels.append(encoded(label, "PNG"))
    rows = pa.table({"data": images, "format": ["object"] * count, "label": labels}, INPUT_SCHEMA)
    return settings.prepare_samples(rows).drop(["error"])


def test_the_distance_is_mahalanobis_s_by_hand() -> None:
    random = np.random.default_rng(0)
    learned = random.normal(size=(2_000, 3)) * [1, 2, 5] + [7, 0, 0]
    fitted = reference(learned, learned)
    raw = fitted.raw(np.array([[7, 0, 0], [10, 0, 0], [7, 0, 15]]))
    assert raw == pytest.approx([0, 9 / 1.05, 9 / 1.05], abs=0.6)
    assert fitted.percentile(fitted.raw(learned)).mean() == pytest.approx(50, abs=0.5)


def test_features_are_of_what_an_image_fills() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, :2, :2] = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    found = features(maps, [(0.5, 0.5)])
    assert found[0].tolist() == [2, 0, 1, 0]


def test_auroc_by_hand() -> None:
    assert auroc(np.array([1, 2]), np.array([3, 4])) == 1
    assert auroc(np.array([1, 2]), np.array([2, 0])) == pytest.approx((1 + 0.5) / 4)


@pytest.mark.parametrize("size", [(32, 48), (3, 5), (1, 1)])
def test_changes_keep_the_size(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    for name, change in STRANGE.items():
        found = change(image)
        assert found.shape == image.shape, name
        assert found.isfinite().all(), name
        assert name in ("blurred", "magnified", "turned", "jigsaw") or not torch.equal(found, image), name


def test_a_package_knows_what_its_images_look_like() -> None:
    settings, network = task(), model()
    calibrated = settings.calibrated(network, [samples(settings, 100, 1)], [samples(settings, 120, 2)])
    assert calibrated.remarks["novelty"].startswith("AUROC ")
    assert from_dict(ImageSegmentation, to_dict(calibrated)) == calibrated
    known = calibrated.predict(network, samples(settings, 20, 3).drop(["label"]), CPU)["novelty"].to_numpy()
    noise = [encoded(np.random.default_rng(9).integers(0, 256, (32, 32, 3), dtype=np.uint8), "PNG")]
    rows = pa.table({"data": noise, "format": ["object"], "label": [None]}, INPUT_SCHEMA)
    row = calibrated.encode(calibrated.predict(network, calibrated.prepare(rows).drop(["error"]), CPU)).to_pylist()[0]
    assert 20 < known.mean() < 80
    assert row["novelty"] == 100
    assert row["novelty_raw"] > 0


@pytest.mark.parametrize(("learned", "held_out", "named"), [(99, 100, "99 training"), (100, 12, "12 held-out")])
def test_with_few_images_novelty_is_null_and_says_so(learned: int, held_out: int, named: str) -> None:
    settings, network = task(), model()
    calibrated = settings.calibrated(network, [samples(settings, held_out)], [samples(settings, learned)])
    assert calibrated.remarks == {"novelty": f"null: there were {named} images, and at least 100 are needed"}
    found = calibrated.encode(calibrated.predict(network, samples(settings, 2).drop(["label"]), CPU))
    assert found["novelty"].null_count == 2


def test_where_it_tells_no_more_than_uncertainty_it_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.novelty_trial.STRANGE", {"the same": lambda image: image})
    settings, network = task(), model()
    calibrated = settings.calibrated(network, [samples(settings, 100, 1)], [samples(settings, 100, 2)])
    assert calibrated.novelty_reference is None
    assert calibrated.remarks["novelty"].startswith("null: it tells no more than uncertainty does (AUROC 0.500")


@pytest.mark.parametrize("tta", ["flip", "scales"])
def test_novelty_does_not_depend_on_further_views(tta: str) -> None:
    settings, network = task(), model()
    calibrated = settings.calibrated(network, [samples(settings, 100, 1)], [samples(settings, 100, 2)])
    rows = samples(settings, 3, 4).drop(["label"])
    plain, other = (
        one.predict(network, rows, CPU)["novelty_raw"].to_numpy()
        for one in (calibrated, from_dict(ImageSegmentation, to_dict(calibrated) | {"tta": tta}))
    )
    np.testing.assert_allclose(plain, other, rtol=1e-4)
