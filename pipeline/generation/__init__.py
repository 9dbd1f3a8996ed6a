"""Fitting samplers to an autoencoder's latents, drawing images from them, keeping both, and pictures of them."""
