"""Images: how they become tensors, and how masks become rows."""
