"""Networks that read documents sentence by sentence."""
