"""Tests of `pipeline.text.formats`."""
