import pytest
import torch
from torch import nn

from benchmarks.measures.active_units import active_units
from benchmarks.tests.images import bars, flat, ladder
from pipeline.models.autoencoders.conv_vae import ConvVAE


def silence(layer: nn.Conv2d, outputs: slice) -> None:
    with torch.no_grad():
        layer.weight[outputs] = 0


def test_units_that_say_nothing_are_counted_out():
    model: ConvVAE = flat()
    images = bars(300)[0]
    with torch.no_grad():
        model.posterior.weight *= 5
    (before,) = active_units(model, images, replicates=50)
    assert (before.active.value, before.units) == (27, 27)
    silence(model.posterior, slice(0, 1))  # the mean of the first of three channels; places are 3 x 3
    (after,) = active_units(model, images, replicates=50)
    assert (after.active.value, after.units) == (18, 27)
    assert after.active == (18, 18, 18)
    assert active_units(model, images, threshold=1e6, replicates=2)[0].active.value == 0


def test_the_variance_is_that_of_the_posterior_mean():
    model, images = flat(), bars(600)[0]  # more than one batch
    with torch.no_grad():
        means = model.eval().infer(images, None).levels[0].mean.flatten(1)
    variances = means.double().var(0, correction=0)
    threshold = variances.median().item() * 1.0001
    (found,) = active_units(model, images, threshold=threshold, replicates=100)
    assert found.active.value == (variances > threshold).sum().item()
    assert found.active.low < found.active.value < found.active.high


def test_a_level_that_follows_its_prior_is_inactive():
    """Its mean varies with the levels above, but it says nothing of its own."""
    model, images = ladder(), bars(200)[0]
    with torch.no_grad():
        for rung in model.rungs:
            rung.posterior.weight *= 30
        model.rungs[1].prior[1].weight *= 30
    top, low = active_units(model, images, replicates=20)
    assert (top.units, low.units) == (4 * 9, 2 * 36)
    assert top.active.value > 30
    assert low.active.value > 30
    silence(model.rungs[1].posterior, slice(None))
    with torch.no_grad():
        means = model.infer(images, None).levels[1].mean.flatten(1)
    assert means.var(0).min() > 0.01
    top, low = active_units(model, images, replicates=20)
    assert top.active.value > 30
    assert low.active == (0, 0, 0)


def test_it_is_seeded():
    model, images = flat(), bars(50)[0]
    assert active_units(model, images, seed=1) == active_units(model, images, seed=1)
    with pytest.raises(ValueError, match="floats"):
        active_units(model, images[0])
