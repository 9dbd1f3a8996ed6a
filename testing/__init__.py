"""Servers, faults, hostile files, processes and equality of tables: what tests and benchmarks share."""
