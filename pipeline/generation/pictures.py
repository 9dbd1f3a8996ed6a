"""Pictures of what an autoencoder does: reconstructions, interpolations and traversals; and files of samples.

Latents are in the coordinates of `Level.noise`, in which the prior of every level is standard normal. In these
coordinates, the finer levels of a hierarchy follow the coarser ones, and a step means the same at every level. All
pictures start from the means of the latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.generation import fitting
from pipeline.images.grids import encode_png, tile, to_pixels
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.inference import prepared_batches
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.noise import Noise, ReservedStep
from pipeline.rows import FailedInput, by_code
from pipeline.table.schema import with_huggingface_features

Path = Literal["spherical", "linear"]
Grid = Literal["reconstructions", "interpolations", "traversals"]

#: Columns of a file of samples. Hugging Face's readers show the image column as pictures.
SAMPLES = with_huggingface_features(
    pa.schema(
        [
            ("index", pa.int64()),
            ("seed", pa.int64()),
            ("sampler", pa.string()),
            ("model", pa.string()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ]
    ),
    {"image": {"_type": "Image"}},
)

_ROW_GROUP = 1000
# If the sine of the angle between two latents is smaller than this, their great circle is not well defined.
_SMALLEST_SINE = 1e-4

# Columns of the grids, steps of an interpolation, channels of the traversals, and their range in standard deviations.
_COLUMNS, _STEPS, _CHANNELS, _REACH = 10, 9, 10, 2.0


class Channel(NamedTuple):
    """A channel of latents. ``strength`` is its KL in nats, or its variance if the code is not Gaussian, summed over
    positions. ``deviation`` is the standard deviation of its latents' means over images and positions.
    """

    level: int
    channel: int
    strength: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class Studied:
    """Images (n, c, h, w) as the model gets them, and their latents at each level, (n, d, y, x).

    ``channels`` are computed from all images that were read, not only from the first n; the strongest comes first.
    """

    images: Tensor
    latents: list[Tensor]
    channels: list[Channel]


def given(
    task: ImageReconstruction, rows: pa.Table, seed: int, failed: list[FailedInput]
) -> Iterator[tuple[range, Tensor]]:
    """Yield batches of images (b, c, h, w) in [0, 1] as the model gets them, with their numbers among the good ones."""
    start = 0
    for _, _, _, prepared in prepared_batches(task, rows, failed):
        image = task.collate(prepared)["image"]
        numbers = range(start, start + len(image))
        yield numbers, task.given(image, Noise(seed, ReservedStep.PICTURES, numbers))
        start += len(image)


def latents_of_inputs(
    task: ImageReconstruction, model: Autoencoder, rows: pa.Table, seed: int, failed: list[FailedInput]
) -> list[Tensor]:
    """The latents of all good inputs, (n, d, y, x) for each level; samplers are fitted to them."""
    found = [
        fitting.latents_of_images(model, image, seed, numbers) for numbers, image in given(task, rows, seed, failed)
    ]
    if not found:
        raise RequestError(f"none of the {rows.num_rows} images could be used: {by_code(failed)}")
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def study(
    task: ImageReconstruction, model: Autoencoder, rows: pa.Table, *, shown: int, seed: int, failed: list[FailedInput]
) -> Studied:
    """The first ``shown`` good images with their latents, and the channels by strength over all good images."""
    images: list[Tensor] = []
    means: list[list[Tensor]] = []
    nats: list[list[Tensor]] = []
    model.eval()
    for _, image in given(task, rows, seed, failed):
        with torch.inference_mode():
            inference = model.infer(image, None)
        if sum(map(len, images)) < shown:
            images.append(image)
        means.append([level.noise for level in inference.levels])
        nats.append(inference.kl_of_channels())
    if not images:
        raise RequestError(f"none of the {rows.num_rows} images could be used: {by_code(failed)}")
    levels = [torch.cat(parts) for parts in zip(*means, strict=True)]
    strengths = [torch.cat(parts).mean(0) for parts in zip(*nats, strict=True)]
    strengths = strengths or [level.var(0, correction=0).sum((1, 2)) for level in levels]
    channels = [
        Channel(index, channel, float(strength), float(level[:, channel].std(correction=0)))
        for index, (level, found) in enumerate(zip(levels, strengths, strict=True))
        for channel, strength in enumerate(found)
    ]
    return Studied(
        images=torch.cat(images)[:shown],
        latents=[level[:shown] for level in levels],
        channels=sorted(channels, key=lambda found: -found.strength),
    )


def grid(model: Autoencoder, studied: Studied, name: Grid, path: Path) -> np.ndarray:
    """A grid of the given name, (h, w, 3) uint8. Traversals are of the first image and the strongest channels."""
    if name == "reconstructions":
        columns = min(_COLUMNS, len(studied.images))
        return tile(to_pixels(reconstructions(model, studied, columns)), columns)
    if name == "interpolations":
        return tile(to_pixels(interpolations(model, studied, steps=_STEPS, path=path)), _STEPS + 2)
    moved = traversals(model, studied, image=0, channels=studied.channels[:_CHANNELS], steps=_STEPS, reach=_REACH)
    return tile(to_pixels(moved), _STEPS)


def legend(studied: Studied) -> list[dict[str, float]]:
    """The channels in the rows of the grid of traversals."""
    return [found._asdict() for found in studied.channels[:_CHANNELS]]


def reconstructions(model: Autoencoder, studied: Studied, columns: int) -> Tensor:
    """Rows of images, each above the row of their reconstructions. Images that do not fill a row are left out."""
    found = []
    for start in range(0, len(studied.images) // columns * columns, columns):
        part = slice(start, start + columns)
        found += [studied.images[part], _decoded(model, studied, [level[part] for level in studied.latents])]
    return torch.cat(found)


def interpolations(model: Autoencoder, studied: Studied, *, steps: int, path: Path) -> Tensor:
    """One row for each pair of images: the first, ``steps`` images along the path of their latents, and the second.

    The latents of each level are interpolated separately. If the number of images is odd, the last is left out.
    """
    weights = torch.linspace(0, 1, steps)
    found = []
    for first in range(0, len(studied.images) - 1, 2):
        ends = [(level[first : first + 1], level[first + 1 : first + 2]) for level in studied.latents]
        between = _decoded(model, studied, [interpolate(*pair, weights, path) for pair in ends])
        found += [studied.images[first : first + 1], between, studied.images[first + 1 : first + 2]]
    return torch.cat(found) if found else studied.images[:0]


def interpolate(one: Tensor, other: Tensor, weights: Tensor, path: Path) -> Tensor:
    """Points (n, ...) on the way from one point (1, ...) at weight 0 to the other at weight 1.

    The spherical path goes along the great circle (Shoemake 1985), with lengths in equal steps. On a straight line, the
    middle between two normal vectors is shorter than almost all normal vectors (White 2016). The path is straight if
    the points are in the same direction, in opposite directions, or at the origin.
    """
    at = weights.view(-1, *[1] * (one.ndim - 1)).to(one)
    straight = one + at * (other - one)
    if path == "linear":
        return straight
    lengths = [point.norm() for point in (one, other)]
    if min(lengths) == 0:
        return straight
    directions = [point / length for point, length in zip((one, other), lengths, strict=True)]
    angle = torch.acos((directions[0] * directions[1]).sum().clamp(-1, 1))
    if torch.sin(angle) < _SMALLEST_SINE:
        return straight
    mixed = torch.sin((1 - at) * angle) * directions[0] + torch.sin(at * angle) * directions[1]
    return mixed / torch.sin(angle) * (lengths[0] + at * (lengths[1] - lengths[0]))


def traversals(
    model: Autoencoder, studied: Studied, *, image: int, channels: Sequence[Channel], steps: int, reach: float
) -> Tensor:
    """One row for each channel: the latents of one image, with those of the channel shifted equally at all positions.

    The shift goes from ``-reach`` to ``reach`` standard deviations. With odd ``steps`` the middle is a reconstruction.
    """
    offsets = torch.linspace(-reach, reach, steps)
    found = []
    for channel in channels:
        moved = [level[image : image + 1].repeat(steps, 1, 1, 1) for level in studied.latents]
        moved[channel.level][:, channel.channel] += channel.deviation * offsets.view(-1, 1, 1)
        found.append(_decoded(model, studied, moved))
    return torch.cat(found)


def _decoded(model: Autoencoder, studied: Studied, latents: list[Tensor]) -> Tensor:
    height, width = studied.images.shape[2:]
    with torch.inference_mode():
        return model.eval().sample(latents, height, width)


def write_samples(uri: str, batches: Iterable[Tensor], *, seed: int, sampler: str, model: str, keep: int) -> np.ndarray:
    """Write images (b, c, h, w) to a Parquet file of `SAMPLES`; returns the first ``keep``, (n, h, w, c) uint8."""
    encoded: list[bytes] = []
    kept: list[np.ndarray] = []
    for images in batches:
        for picture in to_pixels(images):
            encoded.append(encode_png(picture))
            kept += [picture] if len(kept) < keep else []
    columns = {
        "index": range(len(encoded)),
        "seed": [seed] * len(encoded),
        "sampler": [sampler] * len(encoded),
        "model": [model] * len(encoded),
        "image": [{"bytes": data, "path": f"{index:06d}.png"} for index, data in enumerate(encoded)],
    }
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SAMPLES), buffer, compression="zstd", row_group_size=_ROW_GROUP)
    storage.write(uri, buffer.getvalue().to_pybytes())
    return np.stack(kept)
