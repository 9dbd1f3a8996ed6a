"""VAE-GAN (Larsen et al. 2016): a discriminator trained together with an autoencoder, which is then also a generator.

The discriminator's features compare reconstructions with images, and its logit judges reconstructions and samples.
One backward pass trains both. The autoencoder's costs use the discriminator with detached weights, and the
discriminator's costs use detached images, so each cost changes one side only. This is simultaneous gradient descent,
which the R1 penalty keeps stable (Mescheder et al. 2018). All costs are in one sum over images, so a wrapper that
averages gradients over workers (DDP) needs no second backward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pipeline.config import check
from pipeline.models.layers import ConvEncoder, check_stages

# Cost of real and of generated images for a discriminator that always answers 1/2.
_UNDECIDED = math.log(2)


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    weight: float = 1.0
    """Weight of the generator's cost, in nats for each image."""
    features: float = 1.0
    """Weight of the feature-matching cost, which has the scale of a Gaussian reconstruction cost of all pixels."""
    r1: float = 10.0
    """Weight of half the squared norm of the discriminator's gradient at real images (R1); 10 in the paper. On digits
    of 28 x 28 pixels the discriminator learned nothing with 10, and learned with 0.1 and with 0.01."""
    start_step: int = 1000
    """First training step that has these costs."""
    margin: float = 0.35
    """Distance in nats of the discriminator's costs from those of chance, log 2, at which the better side pauses."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of the discriminator at each resolution: at 1/2 of the image's size, at 1/4, and so on."""
    channels: int = 3
    """Channels of the image; must be those of the autoencoder."""

    def __post_init__(self) -> None:
        check_stages(self)
        for name in ("weight", "features", "r1", "start_step"):
            check(self, name, getattr(self, name) >= 0, "not be negative")
        check(self, "margin", self.margin > 0, "be positive")


class Verdict(NamedTuple):
    """Unweighted costs of each image, (b,). The first two train the autoencoder, the others the discriminator."""

    matching: Tensor
    generator: Tensor
    real: Tensor
    made: Tensor
    r1: Tensor


class Discriminator(nn.Module):
    """Classifies each region of images in [0, 1] as real or generated. Stores its last costs, for `gates`."""

    costs: Tensor

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConvEncoder(config.channels, config.widths, (0,) * len(config.widths))
        self.head = nn.Conv2d(config.widths[-1], 1, 1)
        self.register_buffer("costs", torch.full((2,), _UNDECIDED))

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, " b"], list[Tensor]]:
        """The logit that an image is real, averaged over regions, and the encoder's feature maps."""
        maps = self.encoder.feature_maps(image)
        return self.head(maps[-1]).float().mean((1, 2, 3)), maps

    def judge(
        self, image: Float[Tensor, "b c h w"], again: Float[Tensor, "b c h w"], sample: Float[Tensor, "b c h w"]
    ) -> Verdict:
        """Costs of images, their reconstructions (``again``), and as many samples of the prior."""
        frozen = {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        with torch.no_grad():
            wanted = self(image)[1]
        logits, maps = functional_call(self, frozen, (again,))
        generator = 0.5 * (_cost(logits) + _cost(functional_call(self, frozen, (sample,))[0]))
        real_image = image.detach().requires_grad_()
        real = self(real_image)[0]
        (gradient,) = torch.autograd.grad(real.sum(), real_image, create_graph=True)
        made = 0.5 * (_cost(-self(again.detach())[0]) + _cost(-self(sample.detach())[0]))
        return Verdict(
            matching=_matching(maps, wanted, image[0].numel()),
            generator=generator,
            real=_cost(real),
            made=made,
            r1=0.5 * gradient.float().square().flatten(1).sum(1),
        )

    def gates(self, step: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Three switches, 0 or 1: whether these costs have begun, the generator learns, the discriminator learns.

        The side that is ahead by more than the margin pauses, as in the authors' code. If both would pause, both learn.
        """
        begun = self.costs.new_tensor(float(step >= self.config.start_step))
        discriminator_waits = (self.costs < _UNDECIDED - self.config.margin).any()
        generator_waits = (self.costs > _UNDECIDED + self.config.margin).any()
        both = discriminator_waits & generator_waits
        generator, discriminator = (~generator_waits | both).float(), (~discriminator_waits | both).float()
        return begun, begun * generator, begun * discriminator

    def absorb(self, costs: Float[Tensor, " 2"]) -> None:
        """Store the mean costs of real and of generated images over a global batch, (2,)."""
        self.costs.copy_(costs)


def _cost(logits: Tensor) -> Tensor:
    """Cross entropy in nats for the label "real": the generator's non-saturating cost (Goodfellow et al. 2014)."""
    return F.softplus(-logits)


def _matching(found: list[Tensor], wanted: list[Tensor], dimensions: int) -> Float[Tensor, " b"]:
    """Negative log density, up to a constant, of ``wanted`` features under unit Gaussians around the ``found`` ones.

    All resolutions have the same weight; together they weigh as much as ``dimensions`` values (those of an image).
    """
    errors = [
        (one.float() - other.float()).square().flatten(1).mean(1) for one, other in zip(found, wanted, strict=True)
    ]
    return 0.5 * dimensions * torch.stack(errors).mean(0)
