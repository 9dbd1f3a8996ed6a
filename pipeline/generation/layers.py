"""Pictures of what a network of layers does: images taken apart, and scenes drawn from the prior."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import RequestError
from pipeline.images import letterbox
from pipeline.images.grids import tile, to_pixels
from pipeline.images.regions import ImageRegions
from pipeline.inference import prepared_batches
from pipeline.models.regions.slot_vae import Layers, SlotVAE
from pipeline.noise import Noise, ReservedStep
from pipeline.rows import FailedInput, by_code

_GROUND = 0.8  # the gray on which layers are shown


def draw_scenes(
    model: SlotVAE, indices: range, *, seed: int, height: int, width: int, batch_rows: int = 64
) -> Iterator[Layers]:
    """Yield batches of the layers of scenes whose latents are drawn from the prior. A scene depends on the seed and its
    index only."""
    model.eval()
    device = next(model.parameters()).device
    shape = model.noise_shapes().latents
    for start in range(0, len(indices), batch_rows):
        noise = Noise(seed, ReservedStep.DRAWING, indices[start : start + batch_rows])
        with torch.inference_mode():
            yield model.decode(noise.normal(*shape, device=device), height, width)


def taken_apart(task: ImageRegions, model: SlotVAE, rows: pa.Table, failed: list[FailedInput]) -> tuple[Tensor, Layers]:
    """Images (n, c, h, w) and their layers, at the means of the latents. `RequestError` if no image can be used."""
    images, colours, masks = [], [], []
    model.eval()
    for _, _, _, prepared in prepared_batches(task, rows, failed):
        image = letterbox.unit(letterbox.images(prepared, task))
        with torch.inference_mode():
            layers = model.infer(image, None).layers
        images.append(image)
        colours.append(layers.colour)
        masks.append(layers.log_mask)
    if not images:
        raise RequestError(f"none of the {rows.num_rows} images could be used: {by_code(failed)}")
    return torch.cat(images), Layers(torch.cat(colours), torch.cat(masks))


def layer_grid(layers: Layers, images: Tensor | None = None) -> np.ndarray:
    """A row for each image, (height, width, 3) uint8: the image if there is one, the layers together, and each layer
    where its mask is, on gray; that with the largest mask first."""
    mask = layers.log_mask.exp()
    order = mask.sum((2, 3)).argsort(dim=1, descending=True)
    parts = mask.unsqueeze(2) * layers.colour + (1 - mask.unsqueeze(2)) * _GROUND
    parts = parts.gather(1, order[:, :, None, None, None].expand_as(parts))
    shown = [layers.image.unsqueeze(1), parts]
    if images is not None:
        shown.insert(0, images.unsqueeze(1))
    cells = torch.cat(shown, dim=1)
    return tile(to_pixels(cells.flatten(0, 1)), cells.shape[1])
