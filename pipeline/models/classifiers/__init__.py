"""Networks that assign one class to a whole image."""
