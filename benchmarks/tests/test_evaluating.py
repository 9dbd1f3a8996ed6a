import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.measures.active_units import active_units
from benchmarks.measures.evaluating import evaluating, picked, unit_images
from benchmarks.measures.image_features import Classifier, ClassifierConfig, describe
from benchmarks.measures.likelihood import importance_nll
from benchmarks.tests.images import bars, flat, ladder
from pipeline.errors import RequestError

CALLS = {
    "describe": (lambda: Classifier(ClassifierConfig(classes=2, widths=(8,), features=4)), describe),
    "likelihood": (flat, lambda model, images: importance_nll(model, images, (3,))),
    "likelihood of a ladder": (ladder, lambda model, images: importance_nll(model, images, (3,))),
    "units": (flat, lambda model, images: active_units(model, images, replicates=2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_network_runs_in_eval_mode_without_gradients(name):
    build, call = CALLS[name]
    model = build().train()
    frozen = next(part for part in model.modules() if isinstance(part, nn.Conv2d)).eval()
    seen = []
    for part in model.modules():
        part.register_forward_hook(lambda part, _, __: seen.append((part.training, torch.is_inference_mode_enabled())))
    call(model, bars(3)[0])
    assert len(seen) > 3
    assert set(seen) == {(False, True)}
    assert all(part.training != (part is frozen) for part in model.modules()), "modes come back as they were"


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout()).append(nn.Linear(1, 1)).train()

    def fail() -> None:
        with evaluating(model):
            assert not model[0].training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model[0].training


def test_autocast_is_on_only_where_it_is_asked_for():
    model = nn.Linear(4, 4)
    for asked, kind in ((False, torch.float32), (True, torch.bfloat16)):
        with evaluating(model, bfloat16=asked):
            assert model(torch.rand(1, 4)).dtype == kind


@pytest.mark.parametrize(
    ("images", "rule"),
    [
        (torch.zeros(2, 3, 3), r"floats \(n, c, h, w\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), "floats"),
        (torch.zeros(0, 1, 3, 3), "floats"),
        (torch.full((1, 1, 3, 3), 1.5), r"within \[0, 1\], got 1.5 to 1.5"),
        (torch.full((1, 1, 3, 3), -0.5), "within"),
        (torch.full((1, 1, 3, 3), float("nan")), "within"),
    ],
)
def test_what_is_no_set_of_images_is_named(images, rule):
    with pytest.raises(RequestError, match=rule):
        unit_images(images)


def test_picked_rows_are_different_and_seeded():
    rows = np.arange(100)
    found = picked(rows, 30, seed=1)
    assert len(set(found.tolist())) == 30
    assert (found == picked(rows, 30, seed=1)).all()
    assert (found != picked(rows, 30, seed=2)).any()
    assert (picked(torch.arange(100), 30, seed=1).numpy() == found).all()
    assert picked(rows, 200, seed=1) is rows
