"""Fixtures and hooks are in `testing.plugin`, for all tests alike."""

pytest_plugins = ["testing.plugin"]
