"""Example inputs for the demonstration and the tests: drawn scenes, and prose from Python's language reference."""
