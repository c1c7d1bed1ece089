"""Pictures made to harm, or merely odd: read as what they are, or refused within bounds."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from plugin.region import Box, plan
from plugin.worker import image_file, picture, placement, upload

CHECKOUT = Path(__file__).resolve().parents[2]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes, rows: int | None = None) -> bytes:
    """Gray; `rows` are in it, all of them unless said."""
    rows = height if rows is None else rows
    packed = zlib.compress(bytes((width + 1) * rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _webp_that_says(width: int, height: int) -> bytes:
    """An animation with a canvas of that size and one small frame."""
    frame = io.BytesIO()
    Image.new("RGB", (8, 8)).save(frame, "WEBP", lossless=True)
    body = frame.getvalue()[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    still = bytes(6) + b"\7\0\0" + b"\7\0\0" + b"\1\0\0" + b"\0" + body

    def part(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    parts = part(b"VP8X", b"\2\0\0\0" + size) + part(b"ANIM", bytes(6)) + part(b"ANMF", still)
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


_BOMB = zlib.compress(bytes(300_000_000), 9)
BOMBS = {
    "text": _png(8, 8, _chunk(b"zTXt", b"a\0\0" + _BOMB)),
    "many texts": _png(8, 8, *[_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 500),
    "profile": _png(8, 8, _chunk(b"iCCP", b"a\0\0" + _BOMB)),
    "international text": _png(8, 8, _chunk(b"iTXt", b"a\0\1\0\0\0" + _BOMB)),
    "pixels": _png(100_000, 100_000, rows=10),
    "wide": _png(2**31 - 1, 1, rows=0),
    "nothing": _png(0, 0),
    "no width": _png(0, 5),
    "webp": _webp_that_says(16383, 16383),
}

_SCRIPT = """
import resource, sys
from plugin.worker import picture
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(picture.read_foreign(data).size)
except picture.Unreadable as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_read_or_refused_within_bounds(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=CHECKOUT, input=BOMBS[kind], capture_output=True
    )
    said, megabytes = done.stdout.decode().splitlines()
    assert done.stderr == b"" and said
    assert int(megabytes) < 150, (said, megabytes)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (65535, 3), (3, 65535), (2, 2)])
@pytest.mark.parametrize("repair", [True, False])
def test_a_picture_of_any_size_is_placed(
    size: tuple[int, int], repair: bool, coffee: Image.Image
) -> None:
    out = io.BytesIO()
    Image.new("RGB", size, "orange").save(out, "PNG")
    planned = plan(Box(200, 100, 100, 100), Box(0, 0, *coffee.size))
    box = planned.content
    source = coffee.crop((box.x, box.y, box.right, box.bottom))
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (20, 20, 60, 60))
    sent = upload.build(planned, source, mask, [])
    answer = picture.read_foreign(out.getvalue())
    placed, notes = placement.fit(answer, sent, source, mask, repair)
    assert placed.size == source.size and placed.getpixel((30, 30)) == (255, 165, 0)
    assert notes


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# What Pillow says of them is for its developers.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_note_does_not_cost_the_picture(
    kind: str, coffee: Image.Image, tmp_path: Path
) -> None:
    """EXIF and profiles that can't be read say nothing; what was paid for is in the pixels."""
    for odd in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3",
        b"Exif\0\0" + b"\xff" * 40,
    ):
        read = picture.read_foreign(_encoded(coffee, kind, exif=odd))
        assert read.size == coffee.size and read.info == {}
        path = tmp_path / f"own.{kind.lower()}"
        path.write_bytes(_encoded(coffee, kind, exif=odd))
        assert image_file.read_image(path).size == coffee.size
    for profile in (b"no profile", b"\0" * 200):
        read = picture.read_foreign(_encoded(coffee, kind, icc_profile=profile))
        assert read.size == coffee.size and read.info == {}


def test_a_profile_is_applied_and_dropped(coffee: Image.Image) -> None:
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (xyz, srgb):
        assert picture.read_foreign(_encoded(coffee, "PNG", icc_profile=profile)).info == {}
    same = picture.read_foreign(_encoded(coffee, "PNG", icc_profile=srgb))
    assert np.abs(np.asarray(same, int) - np.asarray(coffee, int)).max() <= 1


def test_every_mode_of_png_is_read(coffee: Image.Image) -> None:
    gray = coffee.convert("L")
    clear = coffee.copy()
    clear.putalpha(gray)
    palette = coffee.quantize(16)
    for made, options, mode in (
        (gray.convert("1"), {}, "RGB"),
        (gray.convert("I;16"), {}, "RGB"),
        (clear.convert("LA"), {}, "RGBA"),
        (palette, {"transparency": 0}, "RGBA"),
        (palette, {"transparency": bytes([0, 128, 255])}, "RGBA"),
        (coffee, {"transparency": coffee.getpixel((0, 0))}, "RGBA"),
        (coffee, {"save_all": True, "append_images": [coffee.rotate(90)]}, "RGB"),
    ):
        read = picture.read_foreign(_encoded(made, "PNG", **options))
        assert (read.mode, read.size, read.info) == (mode, coffee.size, {})


def test_text_in_a_picture_goes_nowhere(coffee: Image.Image) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "who made it")
    read = picture.read_foreign(_encoded(coffee, "PNG", pnginfo=note))
    assert b"who made it" not in picture.png(read)
