"""What tests and benchmarks share: servers, faults, hostile files, processes, and comparison of tables."""
