"""Training on one device, in plain torch."""
