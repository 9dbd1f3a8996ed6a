import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.models.autoencoder import ConvVAE, ConvVAEConfig
from pipeline.models.ladder import LadderVAE, LadderVAEConfig
from pipeline.models.segmenter import UNet, UNetConfig, init_from_autoencoder

STAGES = {"widths": (8, 16, 24), "blocks": (0, 1, 1)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (17, 33), (32, 48), (180, 240)])
def test_logits_at_the_image_size(size):
    model = UNet(UNetConfig(classes=5, **STAGES)).eval()
    with torch.inference_mode():
        logits = model(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_an_image_does_not_see_the_rest_of_its_batch():
    model = UNet(UNetConfig(classes=5, **STAGES)).eval()
    images = torch.rand(3, 3, 20, 28)
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-5, rtol=0)


def test_overfits_one_batch():
    model = UNet(UNetConfig(classes=3, **STAGES))
    label = torch.zeros(2, 24, 32, dtype=torch.int64)
    label[0, :, 16:], label[1, 12:] = 1, 2
    image = torch.stack([label * 0.3 + 0.1, label * 0.1, torch.rand(2, 24, 32)], 1).float()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(80):
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model(image).argmax(1) == label).float().mean() > 0.97


@pytest.mark.parametrize(
    "source",
    [
        lambda: ConvVAE(ConvVAEConfig(**STAGES, decoder_blocks=(0, 0, 0), latent_channels=4)),
        lambda: LadderVAE(LadderVAEConfig(**STAGES, decoder_blocks=(0, 0, 0), latent_channels=(4, 2))),
    ],
    ids=["flat", "ladder"],
)
def test_the_encoder_starts_from_an_autoencoder(source):
    source = source()
    model = UNet(UNetConfig(classes=5, **STAGES))
    head = model.head.weight.clone()
    assert init_from_autoencoder(model, source) == len(source.encoder.state_dict()) == len(model.encoder.state_dict())
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name
    assert torch.equal(model.head.weight, head), "the rest stays"


def test_another_encoder_is_refused_by_its_setting():
    source = ConvVAE(ConvVAEConfig(widths=(8, 16, 32), blocks=(0, 1, 1), decoder_blocks=(0, 0, 0)))
    with pytest.raises(RequestError, match=r"UNetConfig.widths must be the autoencoder's \(8, 16, 32\)"):
        init_from_autoencoder(UNet(UNetConfig(classes=5, **STAGES)), source)


def test_wrong_channels_are_a_request_error():
    with pytest.raises(RequestError, match=r"channels is 3, but images have 4"):
        UNet(UNetConfig(classes=5, **STAGES))(torch.rand(1, 4, 16, 16))
    with pytest.raises(RequestError, match=r"UNetConfig.classes must be at least 2, got 1"):
        UNetConfig(classes=1)
