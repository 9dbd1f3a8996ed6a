"""Models: tensors to tensors. They know no file and no cluster.

Axes, in every annotation: b batch, c channel, h height, w width, t token, s sentence, k class, d latent, y x a latent's
place. A leading batch axis is everywhere.
"""

from pipeline.models.autoencoder import ConvVAE, ConvVAEConfig
from pipeline.models.documents import SentenceTagger, SentenceTaggerConfig
from pipeline.models.ladder import LadderVAE, LadderVAEConfig
from pipeline.models.segmenter import UNet, UNetConfig

#: By name: the settings and the class. What a package names, and nothing else, can be loaded.
MODELS: dict[str, tuple[type, type]] = {
    "conv_vae": (ConvVAEConfig, ConvVAE),
    "ladder_vae": (LadderVAEConfig, LadderVAE),
    "unet": (UNetConfig, UNet),
    "sentence_tagger": (SentenceTaggerConfig, SentenceTagger),
}
