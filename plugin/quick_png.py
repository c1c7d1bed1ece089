"""The PNGs in which GIMP and the worker hand each other pictures: written quickly, not small.

Libraries that write PNGs choose a filter for each row and pack the pixels, or copy them several
times. That takes up to ten times as long as to read them again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

STRIP_PIXELS = 1_000_000
"""A good size of the strips that are encoded one after the other."""
_COLOURS = {1: 0, 3: 2, 4: 6}
"""PNG's numbers for gray, RGB and RGBA, by their channels."""
_CHANNELS = {number: channels for channels, number in _COLOURS.items()}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(
    size: tuple[int, int], channels: int, strips: Iterable[bytes], level: int = 0
) -> Iterator[bytes]:
    """Yield the parts of a PNG of `size` (width, height), in sRGB with 8 bits a channel.

    `channels` is 1 for gray, 3 for RGB, 4 for RGBA. `strips` are whole rows of pixels, from the
    top; `level` is zlib's, 0 to pack nothing.
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
        # A byte before each row says that it is not filtered.
        yield from _chunk(b"IDAT", packer.compress(b"\0" + b"\0".join(rows)))
    yield from _chunk(b"IDAT", packer.flush())
    yield from _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> Iterator[bytes]:
    yield struct.pack(">I", len(data)) + kind
    yield data
    yield struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def header(path: Path) -> tuple[int, int, int]:
    """Return width, height and channels of a PNG of 8 bits. Raises OSError and ValueError."""
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or not head.startswith(_SIGNATURE) or head[25] not in _CHANNELS:
        raise ValueError
    width, height = struct.unpack(">II", head[16:24])
    return width, height, _CHANNELS[head[25]]
