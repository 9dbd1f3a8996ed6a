"""Models: tensors to tensors. They know no file and no cluster.

Axes, in every annotation: b batch, c channel, h height, w width, t token, s sentence, k class, d latent.
"""

#: By name: the settings and the class. What a package names, and nothing else, can be loaded.
MODELS: dict[str, tuple[type, type]] = {}
