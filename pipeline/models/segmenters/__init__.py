"""Networks that assign a class to every pixel of an image: their interface, and one file for each architecture."""
