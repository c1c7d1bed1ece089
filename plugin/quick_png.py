"""Write PNG files quickly, for the pictures that GIMP and the worker exchange.

Speed matters more than file size here. Other PNG writers choose a filter for each row and compress
the pixels, or copy the pixels several times. With them, writing a file takes up to ten times as
long as reading the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

STRIP_PIXELS = 1_000_000
"""A suitable number of pixels for each strip of rows that is passed to `encoded`."""
_COLOURS = {1: 0, 3: 2, 4: 6}
"""The colour types of PNG for gray, RGB and RGBA, by number of channels."""
_CHANNELS = {number: channels for channels, number in _COLOURS.items()}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(
    size: tuple[int, int], channels: int, strips: Iterable[bytes], level: int = 0
) -> Iterator[bytes]:
    """Yield the bytes of a PNG file with 8 bits per channel, piece by piece.

    `size` is the (width, height) of the picture. `channels` is 1 for gray, 3 for RGB, 4 for RGBA.
    `strips` holds the pixels from top to bottom; each strip has whole rows. The pixels must be in
    sRGB, because the file contains no colour profile. `level` is the compression level of zlib; 0
    stores the pixels uncompressed.
    """
    width, height = size
    packer = zlib.compressobj(level)
    yield _SIGNATURE
    yield from _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    )
    length = width * channels
    for strip in strips:
        rows = (strip[start : start + length] for start in range(0, len(strip), length))
        # In a PNG, each row begins with a byte that names the filter of the row; 0 is no filter.
        yield from _chunk(b"IDAT", packer.compress(b"\0" + b"\0".join(rows)))
    yield from _chunk(b"IDAT", packer.flush())
    yield from _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> Iterator[bytes]:
    yield struct.pack(">I", len(data)) + kind
    yield data
    yield struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def header(path: Path) -> tuple[int, int, int]:
    """Return the width, height and number of channels of a PNG file with 8 bits per channel.

    This function does not check that the file has 8 bits per channel. Raises OSError, and
    ValueError if the file is not a PNG in gray, RGB or RGBA.
    """
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or not head.startswith(_SIGNATURE) or head[25] not in _CHANNELS:
        raise ValueError
    width, height = struct.unpack(">II", head[16:24])
    return width, height, _CHANNELS[head[25]]
