"""What autoencoders are trained for."""
