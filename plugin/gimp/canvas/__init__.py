"""Copy and render GIMP's layers, read and write their pixels, and find exported pixels again."""
