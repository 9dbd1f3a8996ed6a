"""What every run of a job has, with Ray or without: its name, its settings' digest, its counts, its life."""
