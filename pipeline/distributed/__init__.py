"""The only code that imports ray: the stream, the trainer, and the table that they share."""
