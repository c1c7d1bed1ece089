"""Repair PNG, JPEG and WebP files whose pixels are complete but whose other parts are damaged.

Other parts are, for example, metadata, colour profiles and the end marker of the file. For this,
the functions split a file into its parts and put the good ones together again.
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
"""A colour profile with more bytes is left out. The largest known profiles have 3 million."""

_JPEG_END = b"\xff\xd9"
_JPEG_HEADS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)
_TAIL = bytes(1 + n * n * 89 % 251 for n in range(4096))
"""Arbitrary bytes without any JPEG marker. They don't continue any real picture data."""


def plain_png(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without unnecessary chunks, and the colour profile of `data` or None.

    A PNG consists of chunks. The returned PNG has only the header, palette, transparency, EXIF
    (which contains the orientation) and pixels. Texts, animations and unknown chunks are left out
    unread. Damaged chunks are left out, too, except for pixels, which the decoder checks later.
    Raises ValueError if the header or the palette is damaged.
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
    """Yield the name and the bytes of each chunk, and whether the chunk is undamaged.

    A chunk is undamaged if its checksum is right. A chunk of pixels (IDAT) is not checked and
    counts as undamaged, unless the file ends in the middle of it. In that case, the chunk with the
    bytes that are there is the last one yielded.
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
        # A wrong checksum of pixels is accepted.
        sound = name == b"IDAT" or zlib.crc32(whole[at + 4 : end - 4]).to_bytes(4, "big") == sum_
        if not (sound or _is_name(data[end + 4 : end + 8])) or end > len(data):
            # The chunk's length itself is damaged, so the next chunk can't be found. Search for the
            # first chunk of pixels instead, unless some pixels have already been found.
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
    """Return whether `name` is a possible chunk name: four letters."""
    return len(name) == 4 and name.isalpha()


def _unpacked(packed: bytes) -> bytes | None:
    """Decompress a colour profile. Return None if it is damaged or has too many bytes."""
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed, _MOST_PROFILE)
    except zlib.error:
        return None
    return None if unpacking.unconsumed_tail else profile


def mended(data: bytes, kind: str) -> bytes | None:
    """Complete the file of a JPEG or WebP whose end is missing, and return it.

    `kind` is the format. Return None if pixels are missing, or if `kind` is another format.
    """
    if kind == "JPEG":
        return _mended_jpeg(data)
    return _mended_webp(data) if kind == "WEBP" else None


def _mended_jpeg(data: bytes) -> bytes | None:
    if data.endswith(_JPEG_END) or not _has_all_scans(data):
        return None
    data = data.removesuffix(b"\xff")
    # The decoder fills in missing pixels without raising an error. To detect that, decode the file
    # a second time with arbitrary bytes at its end. The decoder uses these bytes only if pixels are
    # missing, so the two pictures are equal only if all pixels are there.
    ended = data + _JPEG_END
    with _decoded(ended) as picture, _decoded(data + _TAIL + _JPEG_END) as other:
        return ended if picture == other else None


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    picture.load()
    return picture


def _has_all_scans(data: bytes) -> bool:
    """Return whether a JPEG file contains all its scans.

    A progressive JPEG consists of several scans, each of which refines the whole picture. Therefore
    decoders raise no error if the last scans are missing. This function checks that there is every
    coefficient (0 to 63) of every colour component in full precision.
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
    """Return the WebP file with only its pixels and its colour profile.

    Return None if its chunk of pixels is missing or incomplete.
    """
    parts = []
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        if len(content) < length:
            break
        if name == b"VP8X":
            # EXIF and XMP are left out, so clear the two flags of this header that announce them.
            content = bytes([content[0] & ~0x0C]) + content[1:]
        if name in (b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"):
            parts.append(name + struct.pack("<I", length) + content + bytes(length % 2))
        at += 8 + length + length % 2
    if not parts or parts[-1][:4] not in (b"VP8 ", b"VP8L"):
        return None
    whole = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole
