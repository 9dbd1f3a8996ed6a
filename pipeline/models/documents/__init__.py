"""Networks that read a document as a sequence of sentences."""
