"""Commands. Each parses its settings, wires the pipeline, and prints one line of JSON."""
