"""Broken, odd and hostile files, with what is expected of each."""
