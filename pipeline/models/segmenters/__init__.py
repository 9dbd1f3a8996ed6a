"""Networks that give every pixel of an image a class: one interface, a file for each architecture."""
