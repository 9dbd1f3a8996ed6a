"""VAE-GAN (Larsen et al. 2016): a discriminator whose features judge reconstructions and whose verdict judges samples.

One backward pass serves both sides. The autoencoder's costs see the discriminator with its weights detached, the
discriminator's costs see detached images, so each cost moves its own side only: simultaneous gradient descent, for
which R1 keeps the discriminator stable (Mescheder et al. 2018). One sum over images then holds all, and a wrapper that
averages gradients over workers needs no second pass.
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

# A discriminator that cannot tell has this cost for real and for made images.
_UNDECIDED = math.log(2)


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    weight: float = 1.0
    """Weight of the generator's cost, nats for each image."""
    features: float = 1.0
    """Weight of the feature-matching reconstruction, which is scaled as a Gaussian's over as many pixels."""
    r1: float = 10.0
    """Weight of the squared norm of the discriminator's gradient at real images, halved as in the paper, which has 10.
    With digits of 28 x 28 pixels a discriminator then stayed undecided; with 0.1 and with 0.01 it learned."""
    start_step: int = 1000
    """First step with any of these costs."""
    margin: float = 0.35
    """How far the discriminator's costs may be from undecided, in nats, before the better side waits."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of the discriminator at each resolution, from half the image's size on."""
    channels: int = 3
    """Channels of the image."""

    def __post_init__(self) -> None:
        check_stages(self)
        for name in ("weight", "features", "r1", "start_step"):
            check(self, name, getattr(self, name) >= 0, "not be negative")
        check(self, "margin", self.margin > 0, "be positive")


class Verdict(NamedTuple):
    """Costs of each image, (b,), without weights; the first two move the autoencoder, the others the discriminator."""

    matching: Tensor
    generator: Tensor
    real: Tensor
    made: Tensor
    r1: Tensor


class Discriminator(nn.Module):
    """Judges images in [0, 1] place by place, and remembers its last costs to keep the two sides in balance."""

    costs: Tensor

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConvEncoder(config.channels, config.widths, (0,) * len(config.widths))
        self.head = nn.Conv2d(config.widths[-1], 1, 1)
        self.register_buffer("costs", torch.full((2,), _UNDECIDED))

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, " b"], list[Tensor]]:
        """The mean logit that an image is real, and the feature maps behind it."""
        maps = self.encoder.features(image)
        return self.head(maps[-1]).float().mean((1, 2, 3)), maps

    def judge(
        self, image: Float[Tensor, "b c h w"], again: Float[Tensor, "b c h w"], sample: Float[Tensor, "b c h w"]
    ) -> Verdict:
        """Costs of images, their reconstructions, and as many samples of the prior."""
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
        """Whether, 0 or 1: any of this has begun, the generator learns, the discriminator learns.

        The side that is ahead by more than the margin waits, as in the authors' code; both learn where both would wait.
        """
        begun = self.costs.new_tensor(float(step >= self.config.start_step))
        discriminator_waits = (self.costs < _UNDECIDED - self.config.margin).any()
        generator_waits = (self.costs > _UNDECIDED + self.config.margin).any()
        both = discriminator_waits & generator_waits
        generator, discriminator = (~generator_waits | both).float(), (~discriminator_waits | both).float()
        return begun, begun * generator, begun * discriminator

    def absorb(self, costs: Float[Tensor, " 2"]) -> None:
        """Remember the mean costs of real and of made images over a global batch."""
        self.costs.copy_(costs)


def _cost(logits: Tensor) -> Tensor:
    """Cross entropy for the label "real", the non-saturating one for a generator (Goodfellow et al. 2014), nats."""
    return F.softplus(-logits)


def _matching(found: list[Tensor], wanted: list[Tensor], dimensions: int) -> Float[Tensor, " b"]:
    """Negative log density, but for a constant, of the wanted features under unit Gaussians around the found ones.

    Each resolution weighs the same, and all together as much as an image's pixels would.
    """
    errors = [
        (one.float() - other.float()).square().flatten(1).mean(1) for one, other in zip(found, wanted, strict=True)
    ]
    return 0.5 * dimensions * torch.stack(errors).mean(0)
