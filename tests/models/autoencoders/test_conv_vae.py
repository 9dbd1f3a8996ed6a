from typing import Any

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig

SMALL = {"widths": (8, 16, 24), "blocks": (0, 1, 1), "decoder_blocks": (0, 1, 1)}


def flat(**settings):
    return ConvVAE(ConvVAEConfig(**SMALL, latent_channels=4, **settings)).eval()


def ladder(**settings):
    return LadderVAE(LadderVAEConfig(**SMALL, **{"latent_channels": (4, 3)} | settings)).eval()


MODELS = {
    "flat": flat,
    "bernoulli": lambda: flat(likelihood="bernoulli"),
    "logistic": lambda: flat(likelihood="logistic"),
    "deterministic": lambda: flat(code="deterministic"),
    "gated": lambda: flat(code="hard_concrete"),
    "top_k": lambda: flat(code="top_k"),
    "ladder": ladder,
    "deep ladder": lambda: ladder(latent_channels=(4, 3, 2), likelihood="bernoulli"),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def noise_for(model, count, size):
    return [torch.randn(count, *shape) for shape in model.latent_shapes(*size)]


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (17, 33), (28, 28), (60, 80)])
@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_range_at_any_size(name, size):
    model = MODELS[name]()
    image = torch.rand(2, 3, *size)
    shapes = model.latent_shapes(*size)
    assert shapes[0] == (4, -(-size[0] // 8), -(-size[1] // 8))
    with torch.inference_mode():
        for noise in (None, noise_for(model, 2, size)):
            found = model.infer(image, noise)
            assert [tuple(level.sample.shape[1:]) for level in found.levels] == shapes
            assert found.logits.shape == image.shape
        pictures = [model.decode([level.sample for level in found.levels], *size), model.sample(noise, *size)]
        torch.testing.assert_close(pictures[0], torch.sigmoid(found.logits), atol=1e-5, rtol=0)
        pictures.append(model.reconstruct(image))
    for picture in pictures:
        assert picture.shape == image.shape
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    assert (model.log_scale is None) == (model.config.likelihood == "bernoulli")


@pytest.mark.parametrize("name", MODELS)
def test_an_image_does_not_see_the_rest_of_its_batch(name):
    model = MODELS[name]()
    images, noise = torch.rand(3, 3, 20, 28), noise_for(model, 3, (20, 28))
    with torch.inference_mode():
        whole = model.infer(images, noise).logits[1:2]
        alone = model.infer(images[1:2], [one[1:2] for one in noise]).logits
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_noise_of_the_prior_gives_its_latents_back(name):
    """What `Level.noise` calls the noise of a sample is the noise that `sample` makes that image from."""
    model = MODELS[name]()
    with torch.inference_mode():
        found = model.infer(torch.rand(2, 3, 16, 24), noise_for(model, 2, (16, 24)))
        again = model.sample([level.noise for level in found.levels], 16, 24)
    torch.testing.assert_close(again, torch.sigmoid(found.logits), atol=1e-4, rtol=0)


def test_features_halve_from_stage_to_stage():
    maps = flat().encoder.feature_maps(torch.rand(1, 3, 17, 33))
    assert [tuple(found.shape[1:]) for found in maps] == [(8, 9, 17), (16, 5, 9), (24, 3, 5)]


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_any_depth(depth):
    config = ConvVAEConfig(channels=1, widths=(8,) * depth, blocks=(1,) * depth, decoder_blocks=(1,) * depth)
    model = ConvVAE(config)
    assert model.infer(torch.rand(2, 1, 28, 28), None).logits.shape == (2, 1, 28, 28)
    assert model.latent_shapes(28, 28)[0][1] == -(-28 // 2**depth)


def test_dense_latents_are_one_vector_that_sees_the_whole_image():
    model = ConvVAE(ConvVAEConfig(channels=1, **SMALL, latent="dense", size_px=(28, 20), latent_channels=10))
    image = torch.rand(1, 1, 28, 20, requires_grad=True)
    found = model.infer(image, None)
    assert model.latent_shapes(28, 20) == [(10, 1, 1)]
    assert found.code.shape == (1, 10)
    (gradient,) = torch.autograd.grad(found.code[0, 0], image)
    assert (gradient[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] != 0).all(), "all corners"
    with pytest.raises(RequestError, match=r"ConvVAEConfig.size_px is \(28, 20\), but images are \(28, 28\)"):
        model.infer(torch.rand(1, 1, 28, 28), None)


def test_a_ladder_may_have_one_vector_at_its_top():
    model = ladder(channels=1, size_px=(28, 20), latent_channels=(10, 3))
    image = torch.rand(2, 1, 28, 20, requires_grad=True)
    noise = noise_for(model, 2, (28, 20))
    found = model.infer(image, noise)
    assert model.latent_shapes(28, 20) == [(10, 1, 1), (3, 7, 5)]
    (gradient,) = torch.autograd.grad(found.levels[0].mean[0, 0].sum(), image, retain_graph=True)
    assert (gradient[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] != 0).all(), "all corners"
    assert (gradient[1] == 0).all()
    rung: Any = model.rungs[0]
    (gradient,) = torch.autograd.grad(found.levels[1].prior.mean.sum(), rung.spread.weight)
    assert gradient.abs().sum() > 0, "the prior below knows the vector"
    with pytest.raises(RequestError, match=r"LadderVAEConfig.size_px is \(28, 20\), but images are \(28, 28\)"):
        model.infer(torch.rand(1, 1, 28, 28), None)


def test_a_new_ladder_says_little_below_the_top_and_learns_there():
    """The priors below depend on the latents above, and every level has a part in the loss."""
    model = ladder(latent_channels=(4, 3, 2))
    noise = noise_for(model, 2, (24, 24))
    other = [torch.randn_like(noise[0]), *noise[1:]]
    image = torch.rand(2, 3, 24, 24)
    one, two = model.infer(image, noise), model.infer(image, other)
    assert one.levels[0].prior.mean.abs().max() == one.levels[0].prior.log_variance.abs().max() == 0
    assert (one.levels[1].prior.mean != two.levels[1].prior.mean).any()
    (one.kl().sum() + one.logits.square().sum()).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == ["sigma"], "the likelihood's scale is no part of this"


def test_a_fixed_scale_is_no_parameter():
    model = flat(scale=0.5)
    assert "sigma" not in dict(model.named_parameters())
    assert model.log_scale.exp().item() == pytest.approx(0.5)
    assert flat().log_scale.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8, 12), "blocks": (1, 1), "decoder_blocks": (1, 1)}, r"widths must be positive multiples of 8"),
        ({"blocks": (1,)}, r"blocks must have as many values as widths, got \(1,\)"),
        ({"latent": "dense"}, "size_px must be given if latent is dense, and only then, got None"),
        ({"size_px": (28, 28)}, "size_px must be given if latent is dense, and only then"),
        ({"scale": 0.0}, "scale must be positive, or null, got 0.0"),
        ({"scale": 0.1, "likelihood": "bernoulli"}, "scale must be null, if bernoulli, got 0.1"),
        ({"active_fraction": 0.0}, r"active_fraction must be in \(0, 1\], got 0.0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(RequestError, match=rf"ConvVAEConfig\.{message}"):
        ConvVAEConfig(**settings)


def test_a_ladder_has_two_to_four_levels():
    with pytest.raises(RequestError, match=r"LadderVAEConfig.latent_channels must have 2 to 4 levels, got \(4,\)"):
        LadderVAEConfig(latent_channels=(4,))
    with pytest.raises(RequestError, match=r"latent_channels must not have more levels than widths"):
        LadderVAEConfig(**SMALL, latent_channels=(4, 3, 2, 1))


@pytest.mark.parametrize("name", MODELS)
def test_wrong_channels_are_a_request_error(name):
    with pytest.raises(RequestError, match="channels is 3, but images have 1"):
        MODELS[name]().infer(torch.rand(1, 1, 16, 16), None)
