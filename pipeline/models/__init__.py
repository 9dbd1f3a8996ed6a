"""Models: tensors to tensors. They know no file and no cluster.

Axes, in every annotation: b batch, c channel, h height, w width, t token, s sentence, k class, d latent.
"""
