"""Figures that only benchmarks need: of generated images, of likelihoods, and of classes told from latents."""
