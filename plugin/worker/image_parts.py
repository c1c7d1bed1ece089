"""The parts of picture files: what carries pixels told from what doesn't.

A picture whose pixels are all there is good, whatever is damaged, missing or absurd beside them.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_MOST_PROFILE = 8_000_000
"""Bytes of a colour profile; the largest real ones have three million."""

_JPEG_END = b"\xff\xd9"
_JPEG_HEADS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)
_TAIL = bytes(1 + n * n * 89 % 251 for n in range(4096))
"""Neither a marker nor anything that a picture goes on with."""


def plain_png(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG with nothing but its pixels and how they lie, and its colour profile.

    Texts, animations and all that is unknown is left out unread, and so is what is damaged, but for
    the pixels: those are for the decoder to judge. Raises ValueError if the header is damaged.
    """
    parts: list[bytes | memoryview] = [_PNG]
    profile = None
    for name, part, sound in _chunks(data):
        if name in (b"IHDR", b"PLTE") and not sound:
            raise ValueError
        if name == b"iCCP" and sound:
            profile = _unpacked(bytes(part[8:-4]).partition(b"\0")[2][1:])
        elif name == b"IDAT" or (sound and name in (b"IHDR", b"PLTE", b"tRNS", b"eXIf")):
            parts.append(part)
    return b"".join([*parts, _PNG_END]), profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Give each chunk's name, the whole of it, and whether its checksum is right.

    Pixels that break off are given as far as they are there.
    """
    whole = memoryview(data)
    at = len(_PNG)
    found_pixels = False
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        end = at + length + 12
        if name == b"IDAT" and end > len(data):
            rest = data[at + 8 :]
            head = struct.pack(">I4s", len(rest), name)
            yield name, memoryview(head + rest + bytes(4)), False
            return
        sum_ = data[end - 4 : end]
        # That of pixels is not looked at.
        sound = name == b"IDAT" or zlib.crc32(whole[at + 4 : end - 4]).to_bytes(4, "big") == sum_
        if not (sound or _is_name(data[end + 4 : end + 8])) or end > len(data):
            # The length is what is damaged.
            at = -1 if found_pixels else data.find(b"IDAT", at + 5) - 4
            if at < 0:
                return
            continue
        yield name, whole[at:end], sound
        if name == b"IEND":
            return
        found_pixels |= name == b"IDAT"
        at = end


def _is_name(name: bytes) -> bool:
    """Whether a chunk may be called so."""
    return len(name) == 4 and name.isalpha()


def _unpacked(packed: bytes) -> bytes | None:
    """A profile's bytes; None if they are damaged, or more than any profile has."""
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed, _MOST_PROFILE)
    except zlib.error:
        return None
    return None if unpacking.unconsumed_tail else profile


def mended(data: bytes, kind: str) -> bytes | None:
    """Return a JPEG or WebP that lacks its end, made whole; None if pixels are missing."""
    if kind == "JPEG":
        return _mended_jpeg(data)
    return _mended_webp(data) if kind == "WEBP" else None


def _mended_jpeg(data: bytes) -> bytes | None:
    if data.endswith(_JPEG_END) or not _has_all_scans(data):
        return None
    data = data.removesuffix(b"\xff")
    # The decoder makes up what is missing. Where something is, it takes a tail for it.
    ended = data + _JPEG_END
    with _decoded(ended) as picture, _decoded(data + _TAIL + _JPEG_END) as other:
        return ended if picture == other else None


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    picture.load()
    return picture


def _has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component of a JPEG comes in full precision.

    Progressive pictures come in many scans, each of them a picture of its own.
    """
    left: dict[int, set[int]] = {}
    at = 2
    while match := _MARKER.search(data, at):
        at = match.end()
        part = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        if match[0][-1] in _JPEG_HEADS and len(part) >= 6 + 3 * part[5]:
            left = {part[6 + 3 * n]: set(range(64)) for n in range(part[5])}
        elif match[0][-1] == _JPEG_SCAN and part and len(part) >= 4 + 2 * part[0]:
            first, last, precision = part[1 + 2 * part[0] :][:3]
            for n in range(part[0]):
                if precision & 15 == 0:
                    left.get(part[1 + 2 * n], set()).difference_update(range(first, last + 1))
        at += 2 + len(part)
    return bool(left) and not any(left.values())


def _mended_webp(data: bytes) -> bytes | None:
    """Without the notes that stand after the pixels, and without what is not whole."""
    parts = []
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        if len(content) < length:
            break
        if name == b"VP8X":
            # It says which notes there are.
            content = bytes([content[0] & ~0x0C]) + content[1:]
        if name in (b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"):
            parts.append(name + struct.pack("<I", length) + content + bytes(length % 2))
        at += 8 + length + length % 2
    if not parts or parts[-1][:4] not in (b"VP8 ", b"VP8L"):
        return None
    whole = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole
