"""Generation: fitting samplers to an autoencoder's latents, drawing images, storing samplers, and making pictures."""
