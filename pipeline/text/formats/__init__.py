"""Documents in the forms that text comes in: one module for each format, which turns its bytes into a `Document`."""
