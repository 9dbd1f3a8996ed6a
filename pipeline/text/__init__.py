"""Documents: how they become sentences and tensors, and how boundaries become rows."""
