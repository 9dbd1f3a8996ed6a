"""Models: tensors to tensors. They know no file and no cluster.

Axes, in every annotation: b batch, c channel, h height, w width, t token, s sentence, k class, d latent, y x a latent's
place. A leading batch axis is everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipeline.config import from_dict, identity, to_dict
from pipeline.errors import RequestError
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.autoencoders.ladder_vae import LadderVAE, LadderVAEConfig
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder

#: By name: the settings and the class. What a package names, and nothing else, can be loaded.
MODELS: dict[str, tuple[type, type]] = {
    "conv_vae": (ConvVAEConfig, ConvVAE),
    "ladder_vae": (LadderVAEConfig, LadderVAE),
    "unet": (UNetConfig, UNet),
    "sentence_tagger": (SentenceTaggerConfig, SentenceTagger),
}

_CARRIED = "autoencoder"


def build(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """A new model by its name in `MODELS`; settings as `settings_of` gives them. `RequestError` where they are wrong.

    The settings of a segmenter may have one more, ``autoencoder``: those of the autoencoder that it carries, or None.
    """
    if name not in MODELS:
        raise RequestError(f"no model named {name!r}; there are {', '.join(sorted(MODELS))}")
    config_class, model_class = MODELS[name]
    carried = None
    if issubclass(model_class, Segmenter):
        carried = settings.get(_CARRIED)
        settings = {key: value for key, value in settings.items() if key != _CARRIED}
    model = model_class(from_dict(config_class, settings))
    return model if carried is None else SegmenterWithAutoencoder(model, _autoencoder(carried))


def settings_of(model: Any) -> dict[str, Any]:
    """The inverse of `build`: a model's settings as plain values."""
    settings = to_dict(model.config)
    if isinstance(model, Segmenter):
        is_carrying = isinstance(model, SegmenterWithAutoencoder)
        settings[_CARRIED] = to_dict(model.autoencoder.config) if is_carrying else None
    return settings


def identity_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for digests: without those that were added to a class later and have their defaults."""
    config_class, model_class = MODELS[name]
    if not issubclass(model_class, Segmenter):
        return identity(from_dict(config_class, settings))
    own = {key: value for key, value in settings.items() if key != _CARRIED}
    return identity(from_dict(config_class, own)) | {_CARRIED: settings.get(_CARRIED)}


def names_of(kind: type) -> list[str]:
    """The names in `MODELS` of one kind of model, such as `Segmenter`."""
    return [name for name, (_, model_class) in MODELS.items() if issubclass(model_class, kind)]


def _autoencoder(settings: Mapping[str, Any]) -> Autoencoder:
    """The autoencoder whose settings have these names; packages do not say its name."""
    reason: RequestError | None = None
    for name in names_of(Autoencoder):
        config_class, model_class = MODELS[name]
        try:
            return model_class(from_dict(config_class, settings))
        except RequestError as wrong:
            reason = reason or wrong
    raise reason or RequestError("no autoencoder has these settings")
