"""The classification of images: fitting on latents, calibration, labels of rows, and listings of class folders."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline import models
from pipeline.config import to_dict
from pipeline.errors import RequestError
from pipeline.images import classification
from pipeline.images.classification import NO_LABEL, ImageClassification, label_problem
from pipeline.images.classifier_fitting import ClassifierFitConfig, fit_classifier
from pipeline.images.movement import moved
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.models.autoencoders.conv_vae import ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAEConfig
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.classifiers.latent_classifier import LatentClassifier, LatentClassifierConfig
from pipeline.rows import INPUT_SCHEMA
from pipeline.source.labelled import class_inputs
from pipeline.training.samples import Samples

FIT = ClassifierFitConfig(steps=150, hidden=(16,), latents=2, classifier_hidden=(16,), dropout=0.0)
STAGES = {"widths": (8, 16), "blocks": (0, 0), "decoder_blocks": (0, 0)}
CLASSES = ("dark", "light")


def task(**settings: object) -> ImageClassification:
    box = ImageReconstruction(height_px=16, width_px=16)
    return ImageClassification(classes=CLASSES, autoencoder=box, fit=FIT, views=2, **settings)  # type: ignore[arg-type]


def network(seed: int = 0) -> LatentClassifier:
    torch.manual_seed(seed)
    autoencoder = ConvVAEConfig(**STAGES, latent_channels=4)
    config = LatentClassifierConfig(classes=2, latents=4, hidden=(16,), dropout=0.0, conv_vae=autoencoder)
    return LatentClassifier(config).eval()


def png(value: int) -> bytes:
    file = BytesIO()
    pixels = np.random.default_rng(value).integers(value, value + 40, (16, 20, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def inputs(labels: list[bytes | None]) -> pa.Table:
    data = [png(10 + index if label != b"light" else 180 + index) for index, label in enumerate(labels)]
    return pa.table({"data": data, "format": ["object"] * len(data), "label": labels}, schema=INPUT_SCHEMA)


def test_two_groups_of_latents_are_told_apart_by_a_label_of_each() -> None:
    """Two clusters; those without a label decide where the line between them is."""
    torch.manual_seed(0)
    truth = torch.arange(80) % 2
    means = torch.randn(80, 1, 3) * 0.3 + torch.where(truth == 1, 2.0, -2.0)[:, None, None]
    posteriors = Gaussian(means, torch.full_like(means, -4.0))
    labelled = torch.tensor([0, 1])
    found = fit_classifier(posteriors, labelled, truth[labelled], 2, FIT, seed=3)
    assert (found.class_logits(means).argmax(1) == truth).all()
    again = fit_classifier(posteriors, labelled, truth[labelled], 2, FIT, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))


def test_a_fitted_model_gives_labels_whose_scores_are_probabilities() -> None:
    rows = task().prepare_samples(inputs([b"dark", b"light", None, b"dark", b"light", b"grey"]))
    assert rows["label"].to_pylist()[:5] == [0, 1, NO_LABEL, 0, 1]
    assert rows["error"][5].as_py()["code"] == "bad_label"
    samples = rows.slice(0, 5).drop_columns(["error"])
    assert task().truth(samples) == {"dark": 2, "light": 2}
    model = network()
    task().fitted(model, Samples([samples]), 0, lambda _: None)
    trained = task().calibrated(model, [samples])
    prepared = trained.prepare(inputs([b"dark", b"light", b"dark"])).drop_columns(["error"])
    found = trained.encode(trained.predict(model, prepared, torch.device("cpu")))
    assert found.schema == trained.schema
    assert found["label"].to_pylist() == ["dark", "light", "dark"]
    assert [label_problem(row) for row in found.to_pylist()] == [None] * 3
    one = trained.encode(trained.predict(model, prepared.slice(1, 1), torch.device("cpu")))
    assert np.allclose(one["scores"][0].as_py(), found["scores"][1].as_py(), atol=1e-5), "whatever else is in the batch"


def test_a_wrong_row_has_a_problem() -> None:
    good = {"scores": [0.25, 0.75], "confidence": 0.75}
    assert label_problem(good) is None
    for change in ({"scores": [0.5, 0.75]}, {"confidence": 0.5}, {"confidence": None}, {"scores": []}):
        assert label_problem(good | change) is not None, change


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """By hand: 4 images of confidence 0.9, of which 3 are right, and 1 of 0.6 that is wrong."""
    scores = torch.tensor([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    bins = classification.calibration_bins(scores, torch.tensor([0, 0, 0, 1, 1]))
    assert classification.calibration_error(bins) == pytest.approx((abs(3.6 - 3) + 0.6) / 5)


def test_latents_of_a_map_are_averaged_as_independent_variables() -> None:
    model = network()
    image = torch.rand(2, 3, 16, 16)
    found, level = model.latents(image), model.autoencoder.infer(image, None).levels[0]
    assert level.posterior is not None
    assert torch.allclose(found.mean, level.mean.mean((2, 3)), atol=1e-6)
    count = level.mean[0, 0].numel()
    variance = level.posterior.log_variance.exp().sum((2, 3)) / count**2
    assert torch.allclose(found.log_variance.exp(), variance, rtol=1e-4)


@pytest.mark.parametrize("name", ["conv_vae", "ladder_vae"])
def test_the_settings_of_a_classifier_make_it_again(name: str) -> None:
    one, several = ConvVAEConfig(**STAGES), LadderVAEConfig(**STAGES, latent_channels=(4, 3))
    settings = {"conv_vae": one, "ladder_vae": several}[name]
    shapes = models.build(name, to_dict(settings)).latent_shapes(16, 16)  # type: ignore[operator]
    config = LatentClassifierConfig(classes=3, latents=sum(shape[0] for shape in shapes), **{name: settings})
    model = models.build("latent_classifier", to_dict(config))
    assert models.settings_of(model) == to_dict(config)
    assert isinstance(model, LatentClassifier)
    assert model(model.latents(torch.rand(2, 3, 16, 16)).mean.unsqueeze(1)).shape == (2, 3)


def test_a_movement_of_no_strength_changes_nothing() -> None:
    image = torch.rand(2, 3, 8, 10)
    affine, bend = torch.randn(2, 2, 3), torch.randn(2, 2, 4, 4)
    assert torch.allclose(moved(image, 0.0, affine, bend), image, atol=1e-5)
    assert not torch.allclose(moved(image, 0.5, affine, bend), image, atol=1e-2)


def test_the_class_is_the_folder_or_what_the_list_says(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png", "dog/3 b.png", "rest/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    kind = ImageClassification.inputs
    found = class_inputs(str(tmp_path), kind)
    assert found["label"].to_pylist() == ["cat", "dog", "dog", "rest"]
    (tmp_path / "train.txt").write_text('# cats\ncat/1.png\n\nrest/4.png dog\n"dog/3 b.png"\n"dog/3 b.png" cat\n')
    listed = class_inputs(str(tmp_path), kind, "train")
    assert listed["label"].to_pylist() == ["cat", "dog", "dog", "cat"]
    assert all(listed["etag"].to_pylist())
    (tmp_path / "top.png").write_bytes(png(1))
    with pytest.raises(RequestError, match="whose name is its class"):
        class_inputs(str(tmp_path), kind)
    (tmp_path / "val.txt").write_text("cat/1.png a b\n")
    with pytest.raises(RequestError, match=r"val.txt, line 1: must be 'image' or 'image class'"):
        class_inputs(str(tmp_path), kind, "val")
