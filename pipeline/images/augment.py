"""Random augmentation of training images: batched tensor operations that run on the device of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import check
from pipeline.images.inputs import NO_CLASS, PADDING
from pipeline.noise import Noise

_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    flip: bool = True
    """Mirror half of the images, left to right."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest zoom factor. An image larger than the box is cropped at a random position."""
    brightness: float = 0.2
    """Largest change of brightness: a number that is added to all channels, whose range is [0, 1]."""
    contrast: float = 0.3
    """Largest change of contrast: differences from the image's mean are multiplied by at most exp(+-contrast)."""
    color: float = 0.3
    """Largest change of saturation: differences from gray are multiplied by at most exp(+-color)."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the settings leave every image unchanged."""
        return not self.flip and self.scale == (1, 1) and not any((self.brightness, self.contrast, self.color))

    def __post_init__(self) -> None:
        check(self, "scale", 0 < self.scale[0] <= self.scale[1], "be positive, the smaller first")
        for name in ("brightness", "contrast", "color"):
            check(self, name, getattr(self, name) >= 0, "not be negative")


def augment_images(
    image: Float[Tensor, "b 3 h w"], label: UInt8[Tensor, "b h w"] | None, config: AugmentConfig, noise: Noise
) -> tuple[Tensor, Tensor | None]:
    """Mirror, zoom, crop and recolour images in [0, 1]; mirror, zoom and crop their labels in the same way.

    The area outside an image is filled with the padding that `inputs.decode_fitted` uses.
    """
    if config.changes_nothing:
        return image, label
    draws = noise.uniform(8, device=image.device)
    grid = _grid(image, config, draws[:, :4])
    # grid_sample fills with zeros outside the image, so the padding value is shifted to zero and back.
    image = _recolor(image, config, draws[:, 4:]) - PADDING / 255
    image = F.grid_sample(image, grid, align_corners=False) + PADDING / 255
    if label is not None:
        moved = (label.to(image.dtype) - NO_CLASS).unsqueeze(1)
        moved = F.grid_sample(moved, grid, mode="nearest", align_corners=False)
        label = (moved.squeeze(1) + NO_CLASS).round().to(torch.uint8)
    return image, label


def luma(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Colour images as gray (ITU-R BT.601)."""
    return (image * image.new_tensor(_GRAY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _grid(image: Tensor, config: AugmentConfig, draws: Float[Tensor, "b 4"]) -> Tensor:
    """The source position of each output pixel, (b, h, w, 2), for `grid_sample`."""
    low, high = (math.log(factor) for factor in config.scale)
    zoom = torch.exp(low + (high - low) * draws[:, 0])
    # The window's centre is limited so that the window stays inside the image, or the image inside the window.
    reach = (1 - 1 / zoom).abs()
    middle = (2 * draws[:, 1:3] - 1) * reach[:, None]
    mirror = torch.where(draws[:, 3] < 0.5, -1.0, 1.0) if config.flip else torch.ones_like(zoom)
    theta = torch.zeros(len(image), 2, 3, device=image.device, dtype=image.dtype)
    theta[:, 0, 0], theta[:, 1, 1] = mirror / zoom, 1 / zoom
    theta[:, :, 2] = middle
    return F.affine_grid(theta, list(image.shape), align_corners=False)


def _recolor(image: Tensor, config: AugmentConfig, draws: Float[Tensor, "b 4"]) -> Tensor:
    signed = (2 * draws - 1)[..., None, None, None]
    gray = luma(image)
    image = gray + (image - gray) * torch.exp(signed[:, 0] * config.color)
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (image - mean) * torch.exp(signed[:, 1] * config.contrast) + signed[:, 2] * config.brightness
    return image.clamp(0, 1)
