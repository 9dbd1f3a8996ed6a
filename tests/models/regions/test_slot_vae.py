"""The mixture of layers, the bound, and the network that infers and paints them."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline import models
from pipeline.config import to_dict
from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian
from pipeline.models.regions.slot_vae import (
    Layers,
    SlotInference,
    SlotNoise,
    SlotVAE,
    SlotVAEConfig,
    blended_nll,
    layer_scores,
    mixture_nll,
)

CONFIG = SlotVAEConfig(slots=3, width=8, slot_width=16, latent_channels=4, iterations=2)


def network() -> SlotVAE:
    torch.manual_seed(0)
    return SlotVAE(CONFIG).eval()


def noise_of(model: SlotVAE, count: int) -> SlotNoise:
    return SlotNoise(*(torch.randn(count, *shape) for shape in model.noise_shapes()))


def layers_of(count: int = 2, channels: int = 3) -> Layers:
    torch.manual_seed(1)
    return Layers(torch.rand(count, 3, channels, 5, 6), torch.randn(count, 3, 5, 6).log_softmax(1))


def test_the_mixture_of_a_pixel_worked_by_hand() -> None:
    """One gray pixel of 0.5: layer 0 (weight 1/4) paints 0.5, layer 1 (weight 3/4) paints 0.7; sigma 0.1."""
    layers = Layers(torch.tensor([0.5, 0.7]).view(1, 2, 1, 1, 1), torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1))
    image = torch.full((1, 1, 1, 1), 0.5)
    peak = 1 / (0.1 * math.sqrt(2 * math.pi))
    density = 0.25 * peak + 0.75 * peak * math.exp(-2)
    assert mixture_nll(image, layers, 0.1).item() == pytest.approx(-math.log(density), rel=1e-5)
    posterior = layer_scores(image, layers, 0.1).softmax(1)[0, 0].item()
    assert posterior == pytest.approx(0.25 * peak / density, rel=1e-5)
    # The layers together are 0.65, which is 1.5 sigma away.
    assert layers.image.item() == pytest.approx(0.65)
    assert blended_nll(image, layers, 0.1).item() == pytest.approx(-math.log(peak) + 1.125, rel=1e-4)


def test_the_mixture_is_a_density_of_the_whole_pixel() -> None:
    """It integrates to 1 over a fine grid of the values of a gray pixel."""
    layers = Layers(torch.tensor([0.3, 0.6]).view(1, 2, 1, 1, 1), torch.tensor([0.2, 0.8]).log().view(1, 2, 1, 1))
    values = torch.linspace(-1, 2, 3001).view(-1, 1, 1, 1)
    many = Layers(layers.colour.expand(3001, -1, -1, -1, -1), layers.log_mask.expand(3001, -1, -1, -1))
    assert (-mixture_nll(values, many, 0.1)).exp().sum().item() * 0.001 == pytest.approx(1.0, rel=1e-3)


def test_the_order_of_slots_changes_no_cost() -> None:
    layers, image = layers_of(), torch.rand(2, 3, 5, 6)
    order = torch.tensor([2, 0, 1])
    other = Layers(layers.colour[:, order], layers.log_mask[:, order])
    for cost in (mixture_nll, blended_nll):
        torch.testing.assert_close(cost(image, other, 0.1), cost(image, layers, 0.1))
    torch.testing.assert_close(other.image, layers.image)
    posterior = Gaussian(torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    moved = Gaussian(*(part[:, order] for part in posterior))
    torch.testing.assert_close(SlotInference(moved, other).kl(), SlotInference(posterior, layers).kl())


def test_permuted_latents_paint_permuted_layers_whose_masks_sum_to_one() -> None:
    model, latents, order = network(), torch.randn(2, 3, 4), torch.tensor([1, 2, 0])
    found, other = model.decode(latents, 13, 18), model.decode(latents[:, order], 13, 18)
    assert found.colour.shape == (2, 3, 3, 13, 18)
    torch.testing.assert_close(found.log_mask.exp().sum(1), torch.ones(2, 13, 18))
    torch.testing.assert_close(other.colour, found.colour[:, order])
    torch.testing.assert_close(other.log_mask, found.log_mask[:, order])


def test_slots_that_begin_in_another_order_end_in_another_order() -> None:
    model, image = network(), torch.rand(2, 3, 12, 16)
    noise, order = noise_of(model, 2), torch.tensor([1, 2, 0])
    found = model.infer(image, noise)
    with torch.no_grad():
        model.attention.start.copy_(model.attention.start[order])
    other = model.infer(image, SlotNoise(noise.start[:, order], noise.latents[:, order]))
    torch.testing.assert_close(other.posterior.mean, found.posterior.mean[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.kl(), found.kl(), atol=1e-3, rtol=1e-4)


def test_an_image_gets_the_same_alone_and_in_a_batch_and_again() -> None:
    model, image = network(), torch.rand(3, 3, 10, 15)
    found = model.infer(image, None)
    torch.testing.assert_close(model.infer(image[1:2], None).posterior.mean, found.posterior.mean[1:2])
    torch.testing.assert_close(model.infer(image, None).layers.colour, found.layers.colour, rtol=0, atol=0)


def test_every_weight_learns_from_the_bound() -> None:
    model, image = network(), torch.rand(2, 3, 12, 16)
    found = model.infer(image, noise_of(model, 2))
    (mixture_nll(image, found.layers, 0.1).sum() + found.kl().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.grad is not None)


def test_the_settings_make_the_network_again_and_wrong_channels_are_refused() -> None:
    model = models.build("slot_vae", to_dict(CONFIG))
    assert models.settings_of(model) == to_dict(CONFIG)
    with pytest.raises(RequestError, match=r"SlotVAEConfig.channels is 3, but images have 1"):
        network().infer(torch.rand(1, 1, 8, 8), None)
    for wrong in ({"slots": 1}, {"sigma": 0.0}, {"iterations": 0}):
        with pytest.raises(RequestError, match=f"SlotVAEConfig.{next(iter(wrong))} must"):
            SlotVAEConfig(**wrong)
