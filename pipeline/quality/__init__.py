"""Measures that need no downloaded weights, and the pages that show them."""
