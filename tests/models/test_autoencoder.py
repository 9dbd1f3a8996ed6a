import pytest
import torch

from pipeline.errors import RequestError
from pipeline.models.autoencoder import ConvVAE, ConvVAEConfig
from pipeline.models.objectives import elbo

SMALL = {"widths": (8, 16, 24), "blocks": (0, 1, 1), "decoder_blocks": (0, 1, 1), "latent_channels": 4}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (17, 33), (32, 48), (180, 240)])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_shapes_and_range_at_any_size(size, likelihood):
    model = ConvVAE(ConvVAEConfig(**SMALL, likelihood=likelihood)).eval()
    image = torch.rand(2, 3, *size)
    with torch.inference_mode():
        posterior = model.encode(image)
        shape = model.latent_shape(*size)
        assert shape == (4, -(-size[0] // 8), -(-size[1] // 8))
        assert posterior.mean.shape == posterior.log_variance.shape == (2, *shape)
        decoded, _ = model(image, torch.randn(2, *shape))
    assert decoded.shape == image.shape
    assert decoded.dtype == torch.float32
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert (model.log_sigma is None) == (likelihood == "bernoulli")


def test_features_halve_from_stage_to_stage():
    maps = ConvVAE(ConvVAEConfig(**SMALL)).encoder.features(torch.rand(1, 3, 17, 33))
    assert [tuple(found.shape[1:]) for found in maps] == [(8, 9, 17), (16, 5, 9), (24, 3, 5)]


def test_an_image_does_not_see_the_rest_of_its_batch():
    model = ConvVAE(ConvVAEConfig(**SMALL)).eval()
    images, noise = torch.rand(3, 3, 20, 28), torch.randn(3, *model.latent_shape(20, 28))
    with torch.inference_mode():
        torch.testing.assert_close(model(images, noise)[0][1:2], model(images[1:2], noise[1:2])[0], atol=1e-5, rtol=0)


def test_overfits_one_batch():
    model = ConvVAE(ConvVAEConfig(widths=(8, 16), blocks=(0, 1), decoder_blocks=(0, 0), latent_channels=4))
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), size=(12, 16), mode="bilinear")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    totals = []
    for _ in range(250):
        decoded, posterior = model(image, torch.randn(2, *model.latent_shape(12, 16)))
        bound = elbo(image, decoded, posterior, likelihood="gaussian", log_sigma=model.log_sigma)
        optimizer.zero_grad()
        (bound.total().mean() / image[0].numel()).backward()
        optimizer.step()
        totals.append(bound.total().mean().item() / image[0].numel())
    assert totals[-1] < totals[0] - 0.5, "half a nat for each dimension at least"
    error = (decoded - image).square().mean().sqrt().item()
    assert error < 0.08
    assert model.log_sigma.exp().item() == pytest.approx(error, rel=0.3), "the learned sigma follows the error"


def test_settings_are_checked():
    with pytest.raises(RequestError, match=r"ConvVAEConfig.widths must be positive multiples of 8, got \(8, 12\)"):
        ConvVAEConfig(widths=(8, 12), blocks=(1, 1), decoder_blocks=(1, 1))
    with pytest.raises(RequestError, match=r"ConvVAEConfig.blocks must have as many values as widths, got \(1,\)"):
        ConvVAEConfig(widths=(8, 16), blocks=(1,), decoder_blocks=(1, 1))


def test_wrong_channels_are_a_request_error():
    with pytest.raises(RequestError, match="channels is 3, but images have 1"):
        ConvVAE(ConvVAEConfig(**SMALL)).encode(torch.rand(1, 1, 16, 16))
