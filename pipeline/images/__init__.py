"""Images: decoding files into tensors, the two image tasks, and encoding masks as PNG."""
