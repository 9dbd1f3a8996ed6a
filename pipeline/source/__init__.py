"""Inputs of a run: listing sources (URIs) as entries, one entry for each input, and reading the bytes of entries."""
