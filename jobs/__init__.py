"""Commands. Each one parses its settings, calls the pipeline, and prints one line of JSON."""
