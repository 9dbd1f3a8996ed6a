"""Random augmentation of training images: batched tensor operations that run on the device of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import added, check
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

    vertical_flip: bool = added(False)
    """Mirror half of the images, upside down. For pictures without an up and down, such as those of a microscope."""
    half_size: float = added(0.0)
    """Fraction of the steps, from the start of a training, that see images at half the size, which takes about a
    quarter of the time."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the settings leave every image unchanged."""
        colours = (self.brightness, self.contrast, self.color)
        return not (self.flip or self.vertical_flip or any(colours)) and self.scale == (1, 1)

    def __post_init__(self) -> None:
        check(self, "half_size", 0 <= self.half_size <= 1, "be in [0, 1]")
        check(self, "scale", 0 < self.scale[0] <= self.scale[1], "be positive, the smaller first")
        for name in ("brightness", "contrast", "color"):
            check(self, name, getattr(self, name) >= 0, "not be negative")


def augment_images(
    image: Float[Tensor, "b 3 h w"], label: UInt8[Tensor, "b h w"] | None, config: AugmentConfig, noise: Noise
) -> tuple[Tensor, Tensor | None]:
    """Mirror, zoom, crop and recolour images in [0, 1]; mirror, zoom and crop their labels in the same way.

    In the first part of a training, ``half_size``, the results have half the height and half the width, rounded up.

    The area outside an image is filled with the padding that `inputs.decode_fitted` uses.
    """
    is_half = 0 <= noise.step < config.half_size * noise.steps
    if config.changes_nothing and not is_half:
        return image, label
    draws = noise.uniform(9 if config.vertical_flip else 8, device=image.device)
    height, width = (-(-side // 2) if is_half else side for side in image.shape[2:])
    grid = _grid(image, config, draws, height, width)
    # grid_sample fills with zeros outside the image, so the padding value is shifted to zero and back.
    image = _recolor(image, config, draws[:, 4:8]) - PADDING / 255
    image = F.grid_sample(image, grid, align_corners=False) + PADDING / 255
    if label is not None:
        moved = (label.to(image.dtype) - NO_CLASS).unsqueeze(1)
        moved = F.grid_sample(moved, grid, mode="nearest", align_corners=False)
        label = (moved.squeeze(1) + NO_CLASS).round().to(torch.uint8)
    return image, label


def luma(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Colour images as gray (ITU-R BT.601)."""
    return (image * image.new_tensor(_GRAY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _grid(image: Tensor, config: AugmentConfig, draws: Float[Tensor, "b n"], height: int, width: int) -> Tensor:
    """The source position of each output pixel, (b, h, w, 2), for `grid_sample`."""
    low, high = (math.log(factor) for factor in config.scale)
    zoom = torch.exp(low + (high - low) * draws[:, 0])
    # The window's centre is limited so that the window stays inside the image, or the image inside the window.
    reach = (1 - 1 / zoom).abs()
    middle = (2 * draws[:, 1:3] - 1) * reach[:, None]
    mirror = torch.where(draws[:, 3] < 0.5, -1.0, 1.0) if config.flip else torch.ones_like(zoom)
    upside = torch.where(draws[:, 8] < 0.5, -1.0, 1.0) if config.vertical_flip else torch.ones_like(zoom)
    theta = torch.zeros(len(image), 2, 3, device=image.device, dtype=image.dtype)
    theta[:, 0, 0], theta[:, 1, 1] = mirror / zoom, upside / zoom
    theta[:, :, 2] = middle
    return F.affine_grid(theta, [*image.shape[:2], height, width], align_corners=False)


def _recolor(image: Tensor, config: AugmentConfig, draws: Float[Tensor, "b 4"]) -> Tensor:
    signed = (2 * draws - 1)[..., None, None, None]
    gray = luma(image)
    image = gray + (image - gray) * torch.exp(signed[:, 0] * config.color)
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + (image - mean) * torch.exp(signed[:, 1] * config.contrast) + signed[:, 2] * config.brightness
    return image.clamp(0, 1)
