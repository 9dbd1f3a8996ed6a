"""Autoencoders with one or several levels of latents, samplers of their latents, and a classifier on the latents."""
