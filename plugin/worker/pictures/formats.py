"""Read pictures from the service: which formats are accepted, and how large a picture may be."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image

from plugin.translation import _
from plugin.worker.pictures import parts
from plugin.worker.pictures.colours import eight_bits, upright_srgb

FOREIGN_FORMATS = ("PNG", "JPEG", "WEBP")
FOREIGN_BYTES = 64_000_000
"""A picture file from the service with more bytes is refused."""
FOREIGN_PIXELS = 64_000_000
"""A picture with more pixels is refused. The service's largest pictures have 8.3 million."""
_LARGE = 16_000_000
"""A picture with at least this many pixels is scaled down while it is read, if the caller needs far
fewer pixels."""
_SMALL = 100_000
"""A picture with at most this many pixels needs so little memory that this is not tested."""


class Unreadable(Exception):
    """The bytes are not a usable picture. The message says why, as a clause for a sentence."""


def file_type(data: bytes) -> str:
    """Return the name of the picture format that `data` begins like, or "" if it is unknown."""
    for magic, name in (
        (b"\x89PNG", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF8", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
    ):
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "BMP"
    if data[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIC"}.get(
            data[8:12], "HEIC" if data[8:11] in (b"hei", b"hev") else ""
        )
    return ""


def read_foreign(data: bytes) -> Image.Image:
    """Decode a picture from the service, upright, in sRGB, as RGB or RGBA with 8 bits per channel.

    The format is recognised by the bytes alone; file names and declared types are ignored. For an
    animation, return its first frame. Raises Unreadable if the picture can't be used. Any other
    exception, such as MemoryError, means a problem of this machine, not of the picture.
    """
    return read_result(data, None)[0]


def read_result(data: bytes, needed: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """Return the same as `read_foreign`, and the (width, height) that the picture has in `data`.

    If the picture is very large and `needed`, the (width, height) that the caller needs, is much
    smaller, the picture is scaled down by a whole number to save memory. The picture then still
    has at least twice the needed width and height.
    """
    if len(data) > FOREIGN_BYTES:
        raise Unreadable(_("it is larger than {size} MB").format(size=FOREIGN_BYTES // 1_000_000))
    if not (found := file_type(data)):
        raise Unreadable(_("it is not a PNG, JPEG or WebP picture"))
    if found not in FOREIGN_FORMATS:
        raise Unreadable(
            _("it is in {kind} format, not a PNG, JPEG or WebP picture").format(kind=found)
        )
    try:
        return _decoded(data, found, needed)
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception as error:
        # Pillow's decoders raise nearly any exception, from struct.error to SyntaxError, both for
        # damaged data and if this machine lacks memory or a working decoder. Decoding another
        # picture tells these two causes apart.
        _check_decoder(found, pixels(data))
        raise Unreadable(_("it is damaged ({why})").format(why=type(error).__name__)) from error


def _decoded(
    data: bytes, found: str, needed: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    profile = None
    if found == "PNG":
        data, profile = parts.plain_png(data)
    try:
        picture, delivered = _loaded(data, found, needed)
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception:
        # In spite of the damage, the file possibly contains all pixels. Repair it and try again.
        if (mended := parts.mended(data, found)) is None:
            raise
        picture, delivered = _loaded(mended, found, needed)
    if profile:
        picture.info["icc_profile"] = profile
    factor = _factor(picture.size, needed)
    return upright_srgb(_reduced(picture, factor) if factor > 1 else picture), delivered


def _loaded(
    data: bytes, found: str, needed: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture, and return it and the (width, height) that it has in the file.

    A JPEG is possibly decoded at a smaller size, if `needed` allows it. Raises Unreadable if the
    picture is too large or has no pixels, and nearly any exception if it is damaged.
    """
    picture = Image.open(io.BytesIO(data), formats=(found,))
    width, height = picture.size
    if not width or not height:
        raise Unreadable(_("it has no pixels"))
    if width * height > FOREIGN_PIXELS:
        raise Unreadable(
            _("it has {width}×{height} pixels, which is too large for a result").format(
                width=width, height=height
            )
        )
    if (factor := _factor(picture.size, needed)) > 1:
        # Decode at a smaller size to save memory. Only JPEG files allow this.
        picture.draft(None, (width // factor, height // factor))
    picture.load()
    return picture, (width, height)


def pixels(data: bytes) -> int:
    """Return the number of pixels of a picture according to its header.

    Return FOREIGN_PIXELS if the number is larger or if the header can't be read.
    """
    with contextlib.suppress(Exception):
        width, height = Image.open(io.BytesIO(data), formats=FOREIGN_FORMATS).size
        return min(width * height, FOREIGN_PIXELS)
    return FOREIGN_PIXELS


def _factor(size: tuple[int, int], needed: tuple[int, int] | None) -> int:
    """Return the largest whole number by which a picture of `size` can be scaled down.

    After scaling, both sides still have at least twice the `needed` pixels. The longer side is
    compared with the longer `needed` side, and the shorter with the shorter, because some files
    store the picture turned by 90°.
    """
    if needed is None or size[0] * size[1] < _LARGE:
        return 1
    shares = (have // (2 * want) for have, want in zip(sorted(size), sorted(needed)))
    return max(1, min(shares))


def _reduced(picture: Image.Image, factor: int) -> Image.Image:
    """Return the picture scaled down by the whole number `factor`.

    The picture is processed in strips of rows to save memory.
    """
    width, height = picture.size
    reduced: Image.Image | None = None
    step = 64 * factor
    for top in range(0, height, step):
        strip = picture.crop((0, top, width, min(top + step, height)))
        strip.info = picture.info
        strip = eight_bits(strip)
        if "transparency" in strip.info or strip.mode == "PA":
            strip = strip.convert("RGBA")
        elif strip.mode in ("P", "1"):
            strip = strip.convert("RGB")
        strip = strip.reduce(factor)
        if reduced is None:
            reduced = Image.new(strip.mode, (strip.width, -(-height // factor)))
        reduced.paste(strip, (0, top // factor))
    assert reduced is not None
    reduced.info = {
        name: value for name, value in picture.info.items() if name in ("icc_profile", "exif")
    }
    return reduced


def _check_decoder(found: str, count: int) -> None:
    """Check that this machine can decode a picture in the format `found` with `count` pixels.

    If it can't, the exception of the decoder or of the memory allocation is raised.
    """
    sample = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(sample, found)
    Image.open(io.BytesIO(sample.getvalue()), formats=(found,)).load()
    if count > _SMALL:
        # Allocate as much memory as the picture needs. This raises MemoryError if there is too
        # little, which decoders don't always report.
        np.empty(4 * count, np.uint8)
