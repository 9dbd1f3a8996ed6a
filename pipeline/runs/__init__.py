"""Parts of a run that do not need Ray: names, digests of settings, counts, commits, and the life of a job."""
