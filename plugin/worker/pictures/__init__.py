"""Read, convert and write pictures.

In the worker, every picture is a Pillow image in sRGB, of mode RGB or RGBA (alpha not
premultiplied), with 8 bits per channel. Pictures from the service are checked strictly when they
are read (`formats`). Pictures that this project wrote itself are read and written quickly
(`png_files`).
"""

from PIL import Image

# Turn Pillow's limit off, because it would also reject large pictures of the user. This module has
# its own limit for pictures from the service.
Image.MAX_IMAGE_PIXELS = None
# Let Pillow allocate memory in large blocks. Only blocks of at least 32 MB are returned to the
# operating system when they are freed. Smaller ones stay reserved for the thread that used them.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]
