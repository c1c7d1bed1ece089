"""Malicious, damaged and unusual pictures: read correctly, or refused with bounded memory."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from plugin.region import Box, plan
from plugin.worker import cli_files
from plugin.worker.fitting import fit
from plugin.worker.pictures import formats, png_files
from plugin.worker.service import upload

CHECKOUT = Path(__file__).resolve().parents[2]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes, rows: int | None = None) -> bytes:
    """Return a gray PNG with extra `chunks`. It contains `rows` rows of pixels, by default all."""
    rows = height if rows is None else rows
    packed = zlib.compress(bytes((width + 1) * rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _webp_that_says(width: int, height: int) -> bytes:
    """Return an animated WebP with a canvas of that size and one small frame."""
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
import re, sys
from pathlib import Path
from plugin.worker.pictures import formats, png_files

def peak():
    # Unlike getrusage, without what the process had before it became Python.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
before = peak()
try:
    print(formats.read_foreign(data).size)
except formats.Unreadable as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.slow
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
    answer = formats.read_foreign(out.getvalue())
    placed, notes = fit.fit(answer, sent, source, mask, repair)
    assert placed.shape[1::-1] == source.size and placed[30, 30].tolist() == [255, 165, 0]
    assert notes


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# Pillow's warnings about such pictures are meant for its developers.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.slow
def test_a_damaged_note_does_not_cost_the_picture(
    kind: str, coffee: Image.Image, tmp_path: Path
) -> None:
    """EXIF data and colour profiles that can't be read are ignored: the pixels were paid for."""
    for odd in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3",
        b"Exif\0\0" + b"\xff" * 40,
    ):
        read = formats.read_foreign(_encoded(coffee, kind, exif=odd))
        assert read.size == coffee.size and read.info == {}
        path = tmp_path / f"own.{kind.lower()}"
        path.write_bytes(_encoded(coffee, kind, exif=odd))
        assert cli_files.read_image(path).size == coffee.size
    for profile in (b"no profile", b"\0" * 200):
        read = formats.read_foreign(_encoded(coffee, kind, icc_profile=profile))
        assert read.size == coffee.size and read.info == {}


def test_a_profile_is_applied_and_dropped(coffee: Image.Image) -> None:
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (xyz, srgb):
        assert formats.read_foreign(_encoded(coffee, "PNG", icc_profile=profile)).info == {}
    same = formats.read_foreign(_encoded(coffee, "PNG", icc_profile=srgb))
    assert np.abs(np.asarray(same, int) - np.asarray(coffee, int)).max() <= 1


@pytest.mark.slow
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
        read = formats.read_foreign(_encoded(made, "PNG", **options))
        assert (read.mode, read.size, read.info) == (mode, coffee.size, {})


def test_text_in_a_picture_goes_nowhere(coffee: Image.Image) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "who made it")
    read = formats.read_foreign(_encoded(coffee, "PNG", pnginfo=note))
    assert b"who made it" not in png_files.encoded(read)


# --- parts with and without pixels --------------------------------------------------------------

_LONG = zlib.compress(b"x" * 1_500_000, 9)
NOTES = {
    "compressed text": _chunk(b"zTXt", b"a\0\0" + _LONG),
    "international text": _chunk(b"iTXt", b"a\0\1\0\0\0" + _LONG),
    "plain text": _chunk(b"tEXt", b"a\0" + b"x" * 1_500_000),
    "a huge profile": _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9_000_000))),
    "huge EXIF": _chunk(b"eXIf", b"MM\0*" + b"x" * 3_000_000),
    "a text with a wrong checksum": _chunk(b"tEXt", b"a\0b")[:-1] + b"x",
    "a gamma with a wrong checksum": _chunk(b"gAMA", b"\0\1\x86\xa0")[:-1] + b"x",
    "a short physical size": _chunk(b"pHYs", b"\0"),
    "a short gamma": _chunk(b"gAMA", b"\0"),
    "a compressed text of an unknown kind": _chunk(b"zTXt", b"a\0\7x"),
    "a wrong animation": _chunk(b"fcTL", b"\0" * 5),
    "an unknown part": _chunk(b"abCd", b"x" * 10),
    "a wrong length": b"\0\0\xff\xff" + _chunk(b"tEXt", b"a\0b")[4:],
    "no name": _chunk(b"\0\1\2\3", b"x"),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", NOTES)
def test_a_part_without_pixels_does_not_cost_the_picture(
    name: str, place: str, coffee: Image.Image
) -> None:
    whole = png_files.encoded(coffee)
    at = 33 if place == "before" else len(whole) - 12
    read = formats.read_foreign(whole[:at] + NOTES[name] + whole[at:])
    assert np.array_equal(np.asarray(read), np.asarray(coffee))


def test_a_large_profile_counts(coffee: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Change the red primary, so that the colour profile has an effect. The zeros after the last
    # table mean nothing, but make the profile larger than Pillow accepts.
    at = int.from_bytes(profile[profile.index(b"rXYZ") + 4 :][:4], "big")
    profile = profile[: at + 8] + profile[at + 12 : at + 16] + profile[at + 12 :]
    long = struct.pack(">I", 2_000_000) + profile[4:] + bytes(2_000_000 - len(profile))
    whole = png_files.encoded(coffee)
    plain, small, large = (
        np.asarray(formats.read_foreign(data), int)
        for data in (
            whole,
            _encoded(coffee, "PNG", icc_profile=profile),
            whole[:33] + _chunk(b"iCCP", b"a\0\0" + zlib.compress(long)) + whole[33:],
        )
    )
    assert np.abs(small - plain).max() > 5 and np.array_equal(small, large)


def test_a_png_is_good_as_long_as_its_pixels_are_there(coffee: Image.Image) -> None:
    """The end, and the checksum before it, may be missing, but no row of pixels."""
    whole = png_files.encoded(coffee)
    for cut in (1, 4, 12, 14, 16):
        read = formats.read_foreign(whole[:-cut])
        assert np.array_equal(np.asarray(read), np.asarray(coffee)), cut
    for left in (0.99, 0.9, 0.5, 0.1):
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(whole[: int(left * len(whole))])
    for at in (20, 28):
        # A damaged header is an error, because it describes the pixels.
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"quality": 30}],
)
def test_a_jpeg_is_good_as_long_as_its_pixels_are_there(
    options: dict[str, Any], coffee: Image.Image
) -> None:
    whole = _encoded(coffee, "JPEG", **options)
    plain = np.asarray(formats.read_foreign(whole))
    for cut in (1, 2):
        assert np.array_equal(np.asarray(formats.read_foreign(whole[:-cut])), plain)
    for left in (0.995, 0.9, 0.5, 0.1):
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(whole[: int(left * len(whole))])


def test_a_progressive_jpeg_that_ends_between_two_scans_is_damaged(coffee: Image.Image) -> None:
    whole = _encoded(coffee, "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xc4|\xff\xda", whole)]
    for at in scans[2:]:
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(whole[:at])


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_webp_is_good_as_long_as_its_pixels_are_there(
    options: dict[str, Any], alpha: bool, coffee: Image.Image
) -> None:
    image = coffee.copy()
    if alpha:
        image.putalpha(Image.radial_gradient("L").resize(coffee.size))
    whole = _encoded(image, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(500), **options)
    plain = np.asarray(formats.read_foreign(whole))
    assert np.array_equal(np.asarray(formats.read_foreign(whole[:-100])), plain)
    for left in (0.9, 0.5):
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(whole[: int(left * len(whole))])


# --- failures of this machine -------------------------------------------------------------------

_LIMITED = """
import io, resource, sys
from PIL import Image
from plugin.worker.pictures import formats, png_files
data = sys.stdin.buffer.read()
formats.read_foreign(png_files.encoded(Image.new("RGB", (8, 8))))
exec(sys.argv[1])
try:
    formats.read_foreign(data)
    print("read")
except formats.Unreadable as error:
    print("a verdict:", error)
except BaseException as error:
    print("a failure:", type(error).__name__)
"""
_LITTLE_MEMORY = """
pages = int(open('/proc/self/statm').read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + {} * 1_000_000,) * 2)
"""
BROKEN_MACHINES = {
    **{f"{size} MB": _LITTLE_MEMORY.format(size) for size in (5, 30, 60)},
    "no plug-in for the format": "Image.OPEN.clear(); Image.init = lambda: None",
    "another version of it": "Image._getdecoder = None",
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", BROKEN_MACHINES)
@pytest.mark.slow
def test_a_failure_of_this_machine_is_no_verdict_on_a_picture(
    name: str, kind: str, coffee: Image.Image
) -> None:
    data = _encoded(coffee.resize((6000, 4000)), kind)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, BROKEN_MACHINES[name]],
        cwd=CHECKOUT, input=data, capture_output=True,
    )  # fmt: skip
    assert done.stdout.startswith(b"a failure"), (done.stdout, done.stderr)


def test_a_damaged_picture_is_so_on_a_healthy_machine(coffee: Image.Image) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        data = _encoded(coffee, kind)
        with pytest.raises(formats.Unreadable, match="damaged"):
            formats.read_foreign(data[: len(data) // 3])


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_of_far_too_many_pixels_comes_out_smaller(coffee: Image.Image) -> None:
    large = coffee.resize((6000, 4000))
    clear = large.copy()
    clear.putalpha(Image.linear_gradient("L").resize(large.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    for image, kind, options in (
        (large, "PNG", {}),
        (clear, "PNG", {}),
        (large.convert("L"), "PNG", {}),
        (large.quantize(64), "PNG", {"transparency": 0}),
        (large.convert("1"), "PNG", {}),
        (large, "JPEG", {"exif": turned}),
        (large.convert("CMYK"), "JPEG", {}),
    ):
        data = _encoded(image, kind, **options)
        read, delivered = formats.read_result(data, (600, 400))
        whole = formats.read_foreign(data)
        assert delivered == (6000, 4000) and read.mode == whole.mode
        assert 1200 <= max(read.size) <= 2400 and 800 <= min(read.size) <= 1600
        near = np.asarray(whole.resize(read.size, Image.Resampling.BOX), int)
        assert np.abs(np.asarray(read, int) - near).mean() < 4
    # A picture that is only a little larger than needed is not scaled.
    assert formats.read_result(_encoded(large, "PNG"), (3001, 2000))[0].size == large.size
    assert formats.read_result(_encoded(coffee, "PNG"), (10, 10))[0].size == coffee.size
