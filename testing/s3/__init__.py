"""S3 servers that tests and benchmarks start, and a proxy in front of them that misbehaves on request."""
