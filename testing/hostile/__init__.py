"""Broken, odd and hostile files, each with the result that it must have."""
