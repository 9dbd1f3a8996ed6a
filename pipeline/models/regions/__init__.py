"""Networks that find regions of images without labels."""
