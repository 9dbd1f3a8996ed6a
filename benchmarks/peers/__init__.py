"""Other tools doing the same work, each with its own best code and none of ours but the network."""
