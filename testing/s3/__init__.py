"""S3 servers that tests and benchmarks start, and a proxy that injects faults between them and clients."""
