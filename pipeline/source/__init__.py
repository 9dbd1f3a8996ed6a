"""What is to be read: URIs become entries, one for each input, and entries become bytes."""
