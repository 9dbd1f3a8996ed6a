"""Drawing images. An image depends on seed and index only, not on the number of images or the size of batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.errors import RequestError
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.samplers import Sampler
from pipeline.noise import Noise, ReservedStep


def draw_images(
    model: Autoencoder,
    sampler: Sampler,
    indices: range,
    *,
    seed: int,
    height: int,
    width: int,
    batch_rows: int = 64,
) -> Iterator[Tensor]:
    """Yield batches of expected images in [0, 1], (b, c, height, width), for latents that the sampler draws.

    Model and sampler must be on the same device. `RequestError` if the sampler was made for another image size.
    """
    if sampler.shapes != model.latent_shapes(height, width):
        raise RequestError(f"the sampler is for latents of {sampler.shapes}, not {model.latent_shapes(height, width)}")
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(indices), batch_rows):
        noise = Noise(seed, ReservedStep.DRAWING, indices[start : start + batch_rows])
        with torch.inference_mode():
            drawn = sampler.draw(lambda *shape, noise=noise: noise.normal(*shape, device=device))
            yield model.sample(drawn, height, width)
