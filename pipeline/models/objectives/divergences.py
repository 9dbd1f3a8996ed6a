"""Maximum mean discrepancy between the aggregate posterior and a standard normal prior (inverse multiquadric kernel).

The discrepancy is not a sum of costs of single images, since every pair of images contributes. With random features of
the kernel, it is a function of the features' mean over the global batch. So workers only need to exchange this mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check

# Scales of the kernel in the reference code of WAE, as multiples of twice the number of latents.
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class MMDConfig:
    weight: float = 100.0
    """Weight in nats of a squared discrepancy of 1; the kernel is 1 at distance 0."""
    frequencies: int = 512
    """Number of random frequencies that approximate the kernel."""
    seed: int = 0
    """Seed of the random frequencies."""

    def __post_init__(self) -> None:
        check(self, "weight", self.weight >= 0, "not be negative")
        check(self, "frequencies", self.frequencies >= 1, "be at least 1")


def imq_kernel(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """The kernel: mean over scales s of C / (C + |x - y|^2) with C = 2 d s (Tolstikhin et al. 2018)."""
    squared = torch.cdist(x, y).square()
    return torch.stack([c / (c + squared) for c in (2 * x.shape[1] * s for s in _SCALES)]).mean(0)


def mmd(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Unbiased estimate of two samples' squared discrepancy (Gretton et al. 2012, equation 3). It can be negative."""
    own = [imq_kernel(sample, sample) for sample in (x, y)]
    within = [(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in own]
    return within[0] + within[1] - 2 * imq_kernel(x, y).mean()


def imq_frequencies(count: int, dimensions: int, generator: torch.Generator) -> Float[Tensor, "d f"]:
    """Random frequencies w; the mean of cos(w (x - y)) over them tends to `imq_kernel` (Rahimi and Recht 2007).

    C / (C + r^2) is the mean of the Gaussian kernels exp(-e r^2 / C) over standard exponential numbers e.
    """
    scale = torch.tensor(_SCALES)[torch.randint(len(_SCALES), (count,), generator=generator)]
    exponential = -torch.log1p(-torch.rand(count, generator=generator, dtype=torch.float64)).float()
    normal = torch.randn(dimensions, count, generator=generator)
    return normal * torch.sqrt(exponential / (dimensions * scale))


class RandomFeatureMMD(nn.Module):
    """The discrepancy of InfoVAE (Zhao et al. 2019) and WAE (Tolstikhin et al. 2018), from random features of images.

    If the products of features phi are the kernel, the discrepancy is |E phi(z) - E phi(prior)|^2. The second mean has
    a closed form. Latents are in the coordinates of `Level.noise`, in which every level's prior is standard normal.
    """

    prior: Tensor

    def __init__(self, config: MMDConfig, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        count = config.frequencies
        for index, (d, y, x) in enumerate(shapes):
            frequencies = imq_frequencies(count, d * y * x, generator)
            self.register_buffer(f"frequencies{index}", frequencies, persistent=False)
        norms = [self.get_buffer(f"frequencies{index}").square().sum(0) for index in range(len(shapes))]
        # The characteristic function of the standard normal: E cos(w z) = exp(-|w|^2 / 2), E sin(w z) = 0.
        prior = torch.cat([torch.cat((torch.exp(-0.5 * norm), torch.zeros_like(norm))) for norm in norms])
        self.register_buffer("prior", prior / count**0.5, persistent=False)

    def features(self, noise: Sequence[Tensor]) -> Float[Tensor, "b f"]:
        """The features phi of the latents of all levels, which are given in the coordinates of `Level.noise`."""
        found = []
        for index, latent in enumerate(noise):
            with torch.autocast(latent.device.type, enabled=False):
                phase = latent.flatten(1).float() @ self.get_buffer(f"frequencies{index}")
            found += [phase.cos(), phase.sin()]
        return torch.cat(found, dim=1) / self.config.frequencies**0.5

    def discrepancy(self, mean: Float[Tensor, " f"], count: int | float) -> Float[Tensor, ""]:
        """The squared discrepancy of ``count`` images whose features have this mean, summed over levels.

        It is unbiased, as `mmd`: pairs of an image with itself are left out. With one image there are no other pairs,
        so the self-pair is kept.
        """
        mean = mean.to(self.prior.dtype)
        levels = len(mean) / (2 * self.config.frequencies)  # each level's kernel is 1 at distance 0
        within = mean @ mean if count <= 1 else (count * (mean @ mean) - levels) / (count - 1)
        return within - 2 * (mean @ self.prior) + self.prior @ self.prior

    def couple(self, share: Float[Tensor, " f"], mean: Float[Tensor, " f"], count: int | float) -> Float[Tensor, ""]:
        """Return a scalar that each worker adds to its loss. Its gradient is the gradient of `discrepancy`, although
        each worker only has its own share of the mean.

        The shares of all workers add up to ``mean``. Only the gradient of the result is meaningful, not its value.
        """
        mean = mean.detach().to(share.dtype).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.discrepancy(mean, count), mean)
        return share @ gradient
