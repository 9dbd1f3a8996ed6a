"""Inputs that the demonstration and the tests make for themselves: drawn scenes, and prose from Python's reference."""
