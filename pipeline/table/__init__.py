"""What is kept: rows in, one current row for each input, whatever breaks. No Ray, no torch, no task."""
