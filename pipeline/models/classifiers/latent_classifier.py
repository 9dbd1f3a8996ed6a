"""A classifier of the latents of an autoencoder, together with the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig
from pipeline.models.autoencoders.latents import Gaussian, Level
from pipeline.models.autoencoders.semi_supervised import perceptron

# The log variance of a code that is not Gaussian, whose samples are its means.
_NO_VARIANCE = -20.0


@dataclass(frozen=True, kw_only=True)
class LatentClassifierConfig:
    classes: int
    """Number of classes of an image."""
    latents: int
    """Latent channels of all levels of the autoencoder together."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers of the classifier."""
    dropout: float = 0.1
    """Part of the hidden units that a step of training leaves out."""
    conv_vae: ConvVAEConfig | None = None
    """The autoencoder, if it has one level of latents; null: it has several."""
    ladder_vae: LadderVAEConfig | None = None
    """The autoencoder, if it has several levels of latents; null: it has one."""

    def __post_init__(self) -> None:
        check(self, "classes", self.classes >= 2, "be at least 2")
        check(self, "latents", self.latents >= 1, "be at least 1")
        check(self, "hidden", all(units >= 1 for units in self.hidden), "be positive")
        check(self, "dropout", 0 <= self.dropout < 1, "be in [0, 1)")
        one = (self.conv_vae is None) != (self.ladder_vae is None)
        check(self, "conv_vae", one, "be given, or ladder_vae instead of it, and not both")


class LatentClassifier(nn.Module):
    """q(class | latents) on an autoencoder's latents (M1 of Kingma et al. 2014), each averaged over its map.

    An autoencoder with dense latents has maps of one position, so that nothing is averaged. Training does not change
    the autoencoder.
    """

    def __init__(self, config: LatentClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = _autoencoder(config).requires_grad_(False)
        self.classifier = perceptron((config.latents, *config.hidden, config.classes), config.dropout)

    def latents(self, image: Float[Tensor, "b c h w"]) -> Gaussian:
        """The posterior (b, d) of the latents of images in [0, 1], those of the coarsest level first, float32."""
        if isinstance(self.autoencoder, ConvVAE):
            levels = (self.autoencoder.level(self.autoencoder.encode(image)[0], None),)
        else:
            levels = self.autoencoder.infer(image, None).levels
        found = [_averaged(level) for level in levels]
        mean, log_variance = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        if mean.shape[1] != self.config.latents:
            _wrong(self.config, mean.shape[1])
        return Gaussian(mean, log_variance)

    def forward(self, latents: Float[Tensor, "b v d"]) -> Float[Tensor, "b k"]:
        """Logits of the classes: the mean over v views of an image, float32."""
        return self.classifier(latents).float().mean(1)


def take_autoencoder(model: nn.Module, autoencoder: nn.Module) -> list[str]:
    """Copy the weights of a package's autoencoder; returns the names of the tensors.

    Do not rename: a training's digest contains the name of this function.
    """
    assert isinstance(model, LatentClassifier)
    weights = autoencoder.state_dict()
    model.autoencoder.load_state_dict(weights)
    return [f"autoencoder.{name}" for name in weights]


def _autoencoder(config: LatentClassifierConfig) -> Autoencoder:
    if config.conv_vae is not None:
        return ConvVAE(config.conv_vae)
    assert config.ladder_vae is not None, "checked with the settings"
    return LadderVAE(config.ladder_vae)


def _averaged(level: Level) -> tuple[Tensor, Tensor]:
    """The mean and the log variance of the averages over the map of a level's latents, which are independent."""
    mean = level.mean.float().flatten(2)
    if level.posterior is None:
        return mean.mean(2), torch.full_like(mean[:, :, 0], _NO_VARIANCE)
    log_variance = level.posterior.log_variance.float().flatten(2)
    count = torch.tensor(float(mean.shape[2]), device=mean.device)
    return mean.mean(2), torch.logsumexp(log_variance, dim=2) - 2 * count.log()


def _wrong(config: LatentClassifierConfig, found: int) -> NoReturn:
    rule = f"LatentClassifierConfig.latents must be the {found} of the autoencoder"
    raise RequestError(f"{rule}, got {config.latents}")
