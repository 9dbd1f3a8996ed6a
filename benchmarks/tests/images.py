"""Small images and networks that the tests of measures share."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig

SIZE = 12
STAGES = {"channels": 1, "widths": (8, 16), "blocks": (0, 1), "decoder_blocks": (0, 1)}


def bars(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy gray images of one bright bar, and whether it stands (1) or lies (0)."""
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, SIZE, SIZE, generator=random) * 0.3
    labels = torch.randint(2, (count,), generator=random)
    places = torch.randint(1, SIZE - 3, (count,), generator=random)
    for image, label, place in zip(images, labels, places, strict=True):
        bar = image[0, :, place : place + 2] if label else image[0, place : place + 2]
        bar += 0.6
    return images, labels


def flat(**settings) -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE(ConvVAEConfig(**{**STAGES, "latent_channels": 3, **settings}))


def ladder(**settings) -> LadderVAE:
    torch.manual_seed(0)
    return LadderVAE(LadderVAEConfig(**{**STAGES, "latent_channels": (4, 2), **settings}))
