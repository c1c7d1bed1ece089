"""Read and write the PNG files of this project, such as the source and the mask of a job."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin import quick_png, storage
from plugin.translation import _
from plugin.worker.pictures.formats import Unreadable

_QUICK = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""OpenCV's options for writing PNG. With them, writing takes half as long as with Pillow, which
chooses a filter for each row of pixels. The files have about the same size."""
_TO_OPENCV = {"RGB": cv2.COLOR_RGB2BGR, "RGBA": cv2.COLOR_RGBA2BGRA}


def read(path: Path) -> Image.Image:
    """Read a PNG of any size that this project wrote. Raises Unreadable."""
    try:
        picture = Image.open(path, formats=("PNG",))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(_("{name} is missing or damaged").format(name=path.name)) from error
    return picture


def write(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG file with the file mode 0600, either completely or not at all.

    Raises OSError.
    """
    storage.write_private(path, encoded(picture))


def write_layer(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write RGB or RGBA pixels, of shape (height, width, 3 or 4), as an uncompressed PNG file.

    GIMP reads uncompressed PNGs quickly. The file has the file mode 0600 and is written completely
    or not at all. Raises OSError.
    """
    height, width, channels = pixels.shape
    together = max(1, quick_png.STRIP_PIXELS // width)
    strips = (pixels[top : top + together].tobytes() for top in range(0, height, together))
    storage.write_private(path, b"".join(quick_png.encoded((width, height), channels, strips)))


def pack(path: Path) -> None:
    """Compress a PNG file of this project if it is uncompressed. Raises OSError and Unreadable."""
    picture = read(path)
    if path.stat().st_size > picture.width * picture.height * len(picture.getbands()):
        write(picture, path)


def encoded(picture: Image.Image, hard: bool = False) -> bytes:
    """Return an L, RGB or RGBA picture as the bytes of a PNG.

    With `hard`, encoding is slower and the PNG smaller.
    """
    if hard:
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=7)
        return out.getvalue()
    pixels = np.asarray(picture)
    if picture.mode in _TO_OPENCV:
        pixels = cv2.cvtColor(pixels, _TO_OPENCV[picture.mode])
    return cv2.imencode(".png", pixels, _QUICK)[1].tobytes()
