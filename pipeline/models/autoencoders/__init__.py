"""Autoencoders: one interface, flat and hierarchical ones, samplers of their latents, and a classifier on them."""
