"""Exports: what is in a table, in the forms that other tools read."""
