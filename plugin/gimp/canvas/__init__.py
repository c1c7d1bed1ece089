"""GIMP's layers and pixels: copied, rendered, read, written, found again."""
