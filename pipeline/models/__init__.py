"""Models: networks that map tensors to tensors. They read no files and do not know that a cluster exists.

The legend of the axes in all annotations: b batch, c channel, h height, w width, t token, s sentence, k class,
d latent channel, y and x row and column in a map of latents. The first axis is always the batch.
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
from pipeline.models.classifiers.latent_classifier import LatentClassifier, LatentClassifierConfig
from pipeline.models.documents.c99 import C99, C99Config
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.models.documents.sentence_vae import SentenceVAE, SentenceVAEConfig
from pipeline.models.documents.texttiling import TextTiling, TextTilingConfig
from pipeline.models.regions.slot_vae import SlotVAE, SlotVAEConfig
from pipeline.models.segmenters.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusConfig
from pipeline.models.segmenters.fcn import FCN, FCNConfig
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.light import Light, LightConfig
from pipeline.models.segmenters.onnx import Onnx, OnnxConfig
from pipeline.models.segmenters.pixels import Pixels, PixelsConfig
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.models.segmenters.vae_unet import VAEUNet, VAEUNetConfig
from pipeline.models.segmenters.with_autoencoder import SegmenterWithAutoencoder

#: The settings class and the model class under each name. `build` makes these models and no others.
MODELS: dict[str, tuple[type, type]] = {
    "conv_vae": (ConvVAEConfig, ConvVAE),
    "ladder_vae": (LadderVAEConfig, LadderVAE),
    "unet": (UNetConfig, UNet),
    "pixels": (PixelsConfig, Pixels),
    "fcn": (FCNConfig, FCN),
    "deeplabv3plus": (DeepLabV3PlusConfig, DeepLabV3Plus),
    "light": (LightConfig, Light),
    "vae_unet": (VAEUNetConfig, VAEUNet),
    "onnx": (OnnxConfig, Onnx),
    "slot_vae": (SlotVAEConfig, SlotVAE),
    "latent_classifier": (LatentClassifierConfig, LatentClassifier),
    "sentence_tagger": (SentenceTaggerConfig, SentenceTagger),
    "texttiling": (TextTilingConfig, TextTiling),
    "c99": (C99Config, C99),
    "sentence_vae": (SentenceVAEConfig, SentenceVAE),
}

#: The names of networks that are imported as they are. They have no weights of ours, and nothing trains them.
IMPORTED = frozenset({"onnx"})

_CARRIED = "autoencoder"


def build(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Make a new, untrained model by its name in `MODELS`. ``settings`` have the form that `settings_of` returns.

    The settings of a segmenter may contain one more entry, ``autoencoder``: the settings of the autoencoder that the
    segmenter carries, or None. Raises `RequestError` if the name is unknown or the settings are wrong.
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
    """The settings of a model as plain values; `build` makes a model of the same architecture from them."""
    settings = to_dict(model.config)
    if isinstance(model, Segmenter):
        is_carrying = isinstance(model, SegmenterWithAutoencoder)
        settings[_CARRIED] = to_dict(model.autoencoder.config) if is_carrying else None
    return settings


def identity_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for digests: without settings that were added to a class later and have their defaults."""
    config_class, model_class = MODELS[name]
    if not issubclass(model_class, Segmenter):
        return identity(from_dict(config_class, settings))
    own = {key: value for key, value in settings.items() if key != _CARRIED}
    return identity(from_dict(config_class, own)) | {_CARRIED: settings.get(_CARRIED)}


def names_of(kind: type) -> list[str]:
    """The names in `MODELS` whose model class is a subclass of ``kind``, such as `Segmenter`, without `IMPORTED`."""
    return [name for name, (_, model) in MODELS.items() if issubclass(model, kind) and name not in IMPORTED]


def _autoencoder(settings: Mapping[str, Any]) -> Autoencoder:
    """The first autoencoder in `MODELS` that accepts these settings. A package stores them without the model's name."""
    reason: RequestError | None = None
    for name in names_of(Autoencoder):
        config_class, model_class = MODELS[name]
        try:
            return model_class(from_dict(config_class, settings))
        except RequestError as wrong:
            reason = reason or wrong
    raise reason or RequestError("no autoencoder has these settings")
