"""A variational autoencoder whose decoder paints an image as layers, so that things and background come apart.

Slot attention (Locatello et al. 2020) binds the features of an image to K slots. Each slot has a Gaussian posterior of
its latents with a standard normal prior, and is decoded on its own to a layer: a colour and a mask logit for every
pixel (spatial broadcast decoder, Watters et al. 2019). A pixel's distribution is the mixture of the layers' colours
with the softmax of the logits over slots as weights, as in MONet (Burgess et al. 2019) and IODINE (Greff et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian, kl, standard_normal

_LOG_2PI = math.log(2 * math.pi)
_EPSILON = 1e-8
# The parameter that is trained is the log variance minus this number, so that posteriors are narrow at the beginning.
_FIRST_LOG_VARIANCE = -4.0
# Latents of a position are so many times the position, so that they are about standard normal.
_WHERE_SCALE = 2.0
# Sizes of the windows around the position of a slot, where half of the image's side is 1.
_WINDOWS = (0.15, 0.3, 0.6)
# Log of the deviation of the noise with which slots begin.
_FIRST_LOG_SPREAD = -2.0


@dataclass(frozen=True, kw_only=True)
class SlotVAEConfig:
    slots: int = 5
    """Number of layers: the background and the most things of an image, or more."""
    channels: int = 3
    """Channels of the image: 3 for RGB."""
    width: int = 32
    """Channels of the convolutions of encoder and decoder."""
    slot_width: int = 64
    """Size of a slot in slot attention."""
    latent_channels: int = 24
    """Latents of a slot."""
    iterations: int = 3
    """Rounds of slot attention."""
    sigma: float = 0.1
    """Standard deviation of a pixel's colour, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        check(self, "slots", self.slots >= 2, "be at least 2")
        for name in ("channels", "width", "slot_width", "latent_channels", "iterations"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "sigma", self.sigma > 0, "be positive")


class Layers(NamedTuple):
    """The layers of images: ``colour`` (b, k, c, h, w) in [0, 1], and ``log_mask`` (b, k, h, w), float32. At each pixel
    the masks' exponentials sum to 1 over k."""

    colour: Tensor
    log_mask: Tensor

    @property
    def image(self) -> Float[Tensor, "b c h w"]:
        """The expected image: the mean of the mixture."""
        return (self.log_mask.exp().unsqueeze(2) * self.colour).sum(1)


class SlotNoise(NamedTuple):
    """Standard normal numbers: ``start`` (b, k, slot width), with which slots begin, and ``latents`` (b, k, d)."""

    start: Tensor
    latents: Tensor


class SlotShapes(NamedTuple):
    """Shapes of the parts of `SlotNoise`, without the batch."""

    start: tuple[int, int]
    latents: tuple[int, int]


class SlotInference(NamedTuple):
    """What is inferred from images: ``posterior`` of the latents (b, k, d), the layers of a ``sample`` of it."""

    posterior: Gaussian
    layers: Layers

    def kl(self) -> Float[Tensor, " b"]:
        """KL(posterior || prior) in nats, summed over slots and latents."""
        return kl(self.posterior, standard_normal(self.posterior.mean)).flatten(1).sum(1)


def mixture_nll(image: Float[Tensor, "b c h w"], layers: Layers, sigma: float) -> Float[Tensor, "b h w"]:
    """Negative log density of each pixel in nats, under the mixture over k of N(colour_k, sigma^2) with the masks as
    weights. All channels of a pixel are of the same layer."""
    return -torch.logsumexp(layer_scores(image, layers, sigma), dim=1)


def layer_scores(image: Float[Tensor, "b c h w"], layers: Layers, sigma: float) -> Float[Tensor, "b k h w"]:
    """log mask + log N(pixel; colour, sigma^2) of each layer. The softmax over k is the probability, given the image,
    that a pixel is of the layer."""
    error = (image.float().unsqueeze(1) - layers.colour) / sigma
    density = -0.5 * error.square().sum(2) - image.shape[1] * (0.5 * _LOG_2PI + math.log(sigma))
    return layers.log_mask + density


def blended_nll(image: Float[Tensor, "b c h w"], layers: Layers, sigma: float) -> Float[Tensor, "b h w"]:
    """Negative log density of each pixel in nats under N(mean of the mixture, sigma^2): as if layers were transparent.

    Training begins with it (`pipeline.images.regions`). Under the mixture alone, slots first become a palette: each
    paints one colour over the whole image, the masks stay flat, and it takes long until they become things.
    """
    error = ((image.float() - layers.image) / sigma).square().sum(1)
    return 0.5 * error + image.shape[1] * (0.5 * _LOG_2PI + math.log(sigma))


class SlotVAE(nn.Module):
    """See the module."""

    def __init__(self, config: SlotVAEConfig) -> None:
        super().__init__()
        self.config = config
        width, slot = config.width, config.slot_width
        self.encoder = nn.Sequential(
            nn.Conv2d(config.channels + 2, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.position = nn.Linear(2, width)
        self.features = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, slot), nn.ReLU(), nn.Linear(slot, slot), nn.LayerNorm(slot)
        )
        self.attention = SlotAttention(config.slots, slot, config.iterations)
        self.to_posterior = nn.Sequential(nn.LayerNorm(slot), nn.Linear(slot, 2 * config.latent_channels))
        self.decoder = BroadcastDecoder(config.latent_channels, 3 * width // 2, 3 * width // 4, config.channels)

    def infer(self, image: Float[Tensor, "b c h w"], noise: SlotNoise | None) -> SlotInference:
        """Latents and layers of images in [0, 1]. Without noise slots begin at the learned vectors, and latents are
        means. `RequestError` if the images have other channels than the settings say."""
        posterior = self.posterior(image, None if noise is None else noise.start)
        latents = posterior.mean if noise is None else posterior.sample(noise.latents)
        return SlotInference(posterior, self.decode(latents, image.shape[2], image.shape[3]))

    def noise_shapes(self) -> SlotShapes:
        """The shapes of the `SlotNoise` of one image."""
        return SlotShapes((self.config.slots, self.config.slot_width), (self.config.slots, self.config.latent_channels))

    def posterior(self, image: Float[Tensor, "b c h w"], start: Tensor | None = None) -> Gaussian:
        """The posterior of the latents (b, k, d). ``start``: see `SlotNoise`; None: no noise."""
        b, c, h, w = image.shape
        if c != self.config.channels:
            raise RequestError(f"SlotVAEConfig.channels is {self.config.channels}, but images have {c}")
        grid = positions(h, w, image.device).expand(b, 2, h, w)
        maps = self.encoder(torch.cat([(image - 0.5) * 2, grid], 1).contiguous(memory_format=torch.channels_last))
        places = positions(maps.shape[2], maps.shape[3], image.device)[0].flatten(1).T
        features = self.features(maps.flatten(2).transpose(1, 2) + self.position(places))
        slots, share = self.attention(features, start)
        mean, log_variance = self.to_posterior(slots).float().chunk(2, dim=-1)
        where = _WHERE_SCALE * (share.float().transpose(1, 2) @ places)
        mean = torch.cat([mean[..., :2] * 0.1 + where, mean[..., 2:]], dim=-1)
        return Gaussian(mean, (log_variance + _FIRST_LOG_VARIANCE).clamp(-12, 4))

    def decode(self, latents: Float[Tensor, "b k d"], height: int, width: int) -> Layers:
        """The layers for given latents. Each is painted without knowing the others; then the masks compete."""
        b, k, _ = latents.shape
        found = self.decoder(latents.flatten(0, 1), height, width).float().unflatten(0, (b, k))
        return Layers(torch.sigmoid(found[:, :, :-1]), torch.log_softmax(found[:, :, -1], dim=1))


class SlotAttention(nn.Module):
    """Slots compete for positions: attention is a softmax over slots, then each slot's mean over positions updates it.

    Each slot begins at a learned vector of its own, in training with some learned noise, and gradients go through the
    last round alone (Chang et al. 2022; Jia et al. 2023). That all begin at draws from one Gaussian, as in the first
    paper, took several times as many steps to find things.
    """

    def __init__(self, slots: int, width: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.start = nn.Parameter(torch.randn(slots, width))
        self.log_spread = nn.Parameter(torch.full((width,), _FIRST_LOG_SPREAD))
        self.keys, self.values = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False))
        self.update = nn.GRUCell(width, width)
        self.refine = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, features: Float[Tensor, "b n d"], noise: Tensor | None) -> tuple[Tensor, Tensor]:
        keys, values = self.keys(features) * features.shape[2] ** -0.5, self.values(features)
        start = self.start.expand(len(features), -1, -1)
        start = start if noise is None else start + self.log_spread.exp() * noise
        slots = start
        with torch.no_grad():
            for _ in range(self.iterations - 1):
                slots, _ = self._round(slots, keys, values)
        # The value is that of the rounds before; the gradient is that of the start.
        slots = slots.detach() + start - start.detach()
        return self._round(slots, keys, values)

    def _round(self, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.softmax(torch.einsum("bnd,bkd->bnk", keys, self.query(slots)), dim=2) + _EPSILON
        share = share / share.sum(1, keepdim=True)
        means = torch.einsum("bnk,bnd->bkd", share, values)
        slots = self.update(means.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return slots + self.refine(slots), share


class BroadcastDecoder(nn.Module):
    """Latents at every position of a coarse grid with its coordinates, then convolutions up to the image's size."""

    def __init__(self, latents: int, coarse: int, fine: int, channels: int) -> None:
        super().__init__()
        self.content, self.place = nn.Linear(latents - 2, coarse), nn.Conv2d(6 + len(_WINDOWS), coarse, 1)
        self.first = nn.Conv2d(coarse, coarse, 3, padding=1)
        self.second = nn.Conv2d(coarse, fine, 3, padding=1)
        self.third = nn.Conv2d(fine, channels + 1, 3, padding=1)

    def forward(self, latents: Float[Tensor, "n d"], height: int, width: int) -> Float[Tensor, "n c h w"]:
        grid = positions(-(-height // 4), -(-width // 4), latents.device)
        relative = grid - (latents[:, :2] / _WHERE_SCALE)[:, :, None, None]
        far = relative.square().sum(1, keepdim=True)
        windows = [torch.exp(-0.5 * far / size**2) for size in _WINDOWS]
        near = (4 * relative).clamp(-1, 1)
        places = self.place(torch.cat([grid.expand_as(relative), relative, near, *windows], 1))
        x = torch.relu(self.content(latents[:, 2:])[:, :, None, None] + places)
        x = x.contiguous(memory_format=torch.channels_last)
        x = torch.relu(self.first(x))
        x = F.interpolate(x, size=(-(-height // 2), -(-width // 2)), mode="nearest")
        x = torch.relu(self.second(x))
        x = F.interpolate(x, size=(height, width), mode="nearest")
        return self.third(x)


def positions(height: int, width: int, device: torch.device) -> Float[Tensor, "1 2 h w"]:
    """Coordinates of pixels, from -1 to 1: of the row, and of the column."""
    y = torch.linspace(-1, 1, height, device=device).view(1, 1, height, 1).expand(1, 1, height, width)
    x = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, width).expand(1, 1, height, width)
    return torch.cat([y, x], 1)
