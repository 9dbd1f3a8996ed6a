"""Images as they might have been drawn or taken otherwise: turned, scaled, sheared, shifted and bent a little."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

#: Shapes of the standard normal numbers that a movement is made of: its affine part, and its bend.
AFFINE, BEND = (2, 3), (2, 4, 4)


def moved(
    image: Float[Tensor, "b c h w"],
    strength: float,
    affine: Float[Tensor, "b 2 3"],
    bend: Float[Tensor, "b 2 4 4"],
    outside: Literal["zeros", "border"] = "border",
) -> Float[Tensor, "b c h w"]:
    """Images turned, scaled, sheared, shifted and bent, as handwriting varies (Simard et al. 2003).

    ``affine`` and ``bend`` are standard normal. At strength 1 the standard deviations are 0.12 (7 degrees, 12 %) for
    the affine part, a twentieth of the image for the shift, and about a twenty-eighth for a bend that is smooth over a
    quarter of the image. What comes from ``outside`` of an image is black, or as its border.
    """
    grid = torch.eye(2, 3, device=image.device) + strength * 0.12 * affine.clamp(-2.5, 2.5)
    grid[:, :, 2] *= 0.1 / 0.12  # a twentieth of the image, half of which is 1
    bent = F.interpolate(strength * 0.07 * bend, size=image.shape[2:], mode="bicubic", align_corners=False)
    flow = F.affine_grid(grid, list(image.shape), align_corners=False) + bent.permute(0, 2, 3, 1)
    return F.grid_sample(image, flow, padding_mode=outside, align_corners=False)
