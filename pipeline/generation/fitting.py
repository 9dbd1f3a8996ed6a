"""Fitting samplers to the latents of an autoencoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from pipeline.errors import RequestError
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.samplers import (
    SAMPLERS,
    FittedSampler,
    MixtureSampler,
    Sampler,
    SamplerConfig,
    TwoStageSampler,
)
from pipeline.noise import Noise, ReservedStep
from pipeline.training.optimiser import cosine, minimise

# A latent that never changes stays what it is.
_SMALLEST_SCALE = 1e-6


def latents_of_images(model: Autoencoder, image: Tensor, seed: int, indices: Sequence[int]) -> list[Tensor]:
    """What samplers are fitted to: posterior samples of images (b, c, h, w), or the code where it has no noise.

    (b, d, y, x) for each level, in the coordinates in which its prior is standard normal. ``indices`` tell the images'
    random numbers apart.
    """
    noise, device = Noise(seed, ReservedStep.FITTING, indices), image.device
    with torch.inference_mode():
        drawn = [noise.normal(*shape, device=device) for shape in model.latent_shapes(*image.shape[2:])]
        return [level.noise for level in model.eval().infer(image, drawn).levels]


def fit_sampler(settings: SamplerConfig, found: Sequence[Tensor], seed: int) -> Sampler:
    """A sampler of latents, fitted to those of many images: (n, d, y, x) for each level, coarsest first, on the CPU.

    The same latents and seed give the same sampler. `RequestError` where the settings do not fit the latents.
    """
    shapes = [(level.shape[1], level.shape[2], level.shape[3]) for level in found]
    settings.check_latents(shapes, len(found[0]))
    sampler = build_sampler(settings, shapes, seed)
    if isinstance(sampler, FittedSampler):
        values = torch.cat([level.detach().flatten(1) for level in found[: settings.levels]], dim=1).float()
        if not values.isfinite().all():
            raise RequestError("a sampler can only be fitted to finite latents; the model gives others")
        sampler.center.copy_(values.mean(0))
        sampler.scale.copy_(values.std(0).clamp(min=_SMALLEST_SCALE))
        values = (values - sampler.center) / sampler.scale
        if isinstance(sampler, MixtureSampler):
            _fit_mixture(sampler, values, seed)
        else:
            assert isinstance(sampler, TwoStageSampler)
            _fit_two_stage(sampler, values, seed)
    return sampler.eval().requires_grad_(False)


def build_sampler(settings: SamplerConfig, shapes: Sequence[tuple[int, int, int]], seed: int = 0) -> Sampler:
    """A sampler that has not been fitted."""
    classes = dict(SAMPLERS.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return classes[type(settings)](settings, shapes).eval()


def _fit_mixture(sampler: MixtureSampler, values: Tensor, seed: int) -> None:
    """Expectation maximisation from k-means, by scikit-learn."""
    settings, found = sampler.config, values.numpy()
    if settings.covariance == "low_rank":
        main = PCA(settings.rank, svd_solver="randomized", random_state=seed).fit(found)
        directions = np.asarray(main.components_).T
        within = found @ directions
        sampler.directions.copy_(torch.from_numpy(directions))
        # What the directions leave of each latent's variance: all variances come out right.
        sampler.noise.copy_(torch.from_numpy((found - within @ directions.T).std(0)))
        found = within
    mixture = GaussianMixture(
        settings.components,
        covariance_type="diag" if settings.covariance == "diagonal" else "full",
        max_iter=settings.iterations,
        reg_covar=settings.regularisation,
        random_state=seed,
    )
    # As many threads as torch: on a busy machine, threads that wait for each other take most of the time.
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        # The likelihood hardly grows in the last of many steps: to stop there is what ``iterations`` asks for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(found)
    covariances = np.asarray(mixture.covariances_, np.float64)
    factors = np.sqrt(covariances) if settings.covariance == "diagonal" else np.linalg.cholesky(covariances)
    sampler.cumulative.copy_(torch.from_numpy(np.cumsum(np.asarray(mixture.weights_))))
    sampler.means.copy_(torch.from_numpy(np.asarray(mixture.means_)))
    sampler.factors.copy_(torch.from_numpy(factors))


def _fit_two_stage(sampler: TwoStageSampler, values: Tensor, seed: int) -> None:
    """Adam on the second stage's evidence lower bound."""
    settings, generator = sampler.config, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=settings.learning_rate)
    rate = LambdaLR(optimizer, lambda step: cosine(step, settings.steps))

    def cost(_: int) -> Tensor:
        chosen = torch.randint(len(values), (min(settings.batch_rows, len(values)),), generator=generator)
        batch = values[chosen]
        return sampler.cost(batch, torch.randn(batch.shape, generator=generator)).mean()

    sampler.train()
    minimise(cost, optimizer, rate, settings.steps, clip_norm=10.0 * sampler.dimensions**0.5)
