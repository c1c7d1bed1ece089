"""Reading and writing pictures: strict about what came from outside, quick about our own.

Pictures in the worker are Pillow images in sRGB, mode RGB or RGBA (straight alpha), 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from plugin import quick_png, settings
from plugin.words import _
from plugin.worker import image_parts

FOREIGN_FORMATS = ("PNG", "JPEG", "WEBP")
FOREIGN_BYTES = 64_000_000
"""Most bytes of one picture that is read from the service."""
FOREIGN_PIXELS = 64_000_000
"""Most pixels of one, far above the largest that the service makes (8.3 million)."""
_LARGE = 16_000_000
"""Pixels from which on an answer is made smaller than it came, if much less is needed."""
_SMALL = 100_000
"""Pixels that need no memory to speak of."""

_QUICK = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""Half of the time that Pillow takes to choose a filter for each row, for the same size."""
_TO_OPENCV = {"RGB": cv2.COLOR_RGB2BGR, "RGBA": cv2.COLOR_RGBA2BGRA}

# Pillow's own limit counts for the user's pictures too, which may be larger; ours are told apart.
Image.MAX_IMAGE_PIXELS = None
# Blocks from 32 MB on go back to the system; smaller ones stay with the thread that had them.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]


class Unreadable(Exception):
    """The bytes are no picture that can be used; the message is a clause that says why."""


def kind(data: bytes) -> str:
    """What a file is by its first bytes: its format's name; "" if it looks like no picture."""
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
    """Decode a picture from outside whole, upright, in sRGB, to RGB or RGBA of 8 bits.

    What it is shows in the bytes alone, never in a name or a declared type. Of an animation the
    first frame is taken. Raises Unreadable; anything else that it raises, such as MemoryError, is
    a failure of this machine and says nothing of the picture.
    """
    return read_result(data, None)[0]


def read_result(data: bytes, needed: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """As `read_foreign`, with the (width, height) that the picture has in the file.

    A picture with much more pixels than the `needed` (width, height) comes out smaller, by a whole
    factor, and still more than twice as wide and high as needed: so it takes less memory.
    """
    if len(data) > FOREIGN_BYTES:
        raise Unreadable(_("it has more than {size} MB").format(size=FOREIGN_BYTES // 1_000_000))
    if not (found := kind(data)):
        raise Unreadable(_("it is not a PNG, JPEG or WebP picture"))
    if found not in FOREIGN_FORMATS:
        raise Unreadable(
            _("it is a picture of the kind {kind}, not a PNG, JPEG or WebP picture").format(
                kind=found
            )
        )
    try:
        return _decoded(data, found, needed)
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception as error:
        # Pillow's decoders raise nearly everything on damaged data, struct.error to SyntaxError,
        # and on this machine's own failures too: whether they are well shows elsewhere.
        _check_decoder(found, pixels(data))
        raise Unreadable(_("it is damaged ({why})").format(why=type(error).__name__)) from error


def _decoded(
    data: bytes, found: str, needed: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    profile = None
    if found == "PNG":
        data, profile = image_parts.plain_png(data)
    try:
        picture, delivered = _loaded(data, found, needed)
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception:
        # All of its pixels may be there for all that.
        if (mended := image_parts.mended(data, found)) is None:
            raise
        picture, delivered = _loaded(mended, found, needed)
    if profile:
        picture.info["icc_profile"] = profile
    factor = _factor(picture.size, needed)
    return upright_srgb(_reduced(picture, factor) if factor > 1 else picture), delivered


def _loaded(
    data: bytes, found: str, needed: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture that isn't too large. Raises Unreadable, and much else."""
    picture = Image.open(io.BytesIO(data), formats=(found,))
    width, height = picture.size
    if not width or not height:
        raise Unreadable(_("it has no pixels"))
    if width * height > FOREIGN_PIXELS:
        raise Unreadable(
            _("it has {width}×{height} pixels, more than any real answer").format(
                width=width, height=height
            )
        )
    if (factor := _factor(picture.size, needed)) > 1:
        # JPEGs can be decoded smaller.
        picture.draft(None, (width // factor, height // factor))
    picture.load()
    return picture, (width, height)


def pixels(data: bytes) -> int:
    """How many pixels a picture says that it has; the most that are read where it doesn't say."""
    with contextlib.suppress(Exception):
        width, height = Image.open(io.BytesIO(data), formats=FOREIGN_FORMATS).size
        return min(width * height, FOREIGN_PIXELS)
    return FOREIGN_PIXELS


def _factor(size: tuple[int, int], needed: tuple[int, int] | None) -> int:
    """By how much a picture may be reduced and keep twice what is needed, however it lies."""
    if needed is None or size[0] * size[1] < _LARGE:
        return 1
    shares = (have // (2 * want) for have, want in zip(sorted(size), sorted(needed)))
    return max(1, min(shares))


def _reduced(picture: Image.Image, factor: int) -> Image.Image:
    """The picture at a whole fraction of its size, made strip by strip to save memory."""
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
    """Find out whether this machine can decode pictures at all, of that format and so many pixels.

    Raises what keeps it from that.
    """
    sample = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(sample, found)
    Image.open(io.BytesIO(sample.getvalue()), formats=(found,)).load()
    if count > _SMALL:
        # Decoders that get no memory don't always say so. It is asked for, not used.
        np.empty(4 * count, np.uint8)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure is no more than a lack of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    )


class Room:
    """Lets so many pixels be worked on at once, and any number if it is the only picture."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait until there is room for so many pixels, and take it."""
        with self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + count <= self._most)
            self._taken += count
        try:
            yield
        finally:
            with self._freed:
                self._taken -= count
                self._freed.notify_all()


def upright_srgb(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation and the embedded profile, then drop both; RGB or RGBA."""
    picture = eight_bits(upright(picture))
    if picture.mode == "RGB" and not {"icc_profile", "transparency"} & picture.info.keys():
        # Most answers: each step below would copy it.
        picture.info.clear()
        return picture
    if picture.mode == "RGBA" and "icc_profile" not in picture.info:
        if picture.getextrema()[-1] == (255, 255):
            picture = picture.convert("RGB")
        picture.info.clear()
        return picture
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    elif picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    profile = picture.info.get("icc_profile")
    colours = picture.convert("RGB") if picture.mode in ("RGBA", "RGB") else picture
    if profile:
        colours = between_profiles(colours, profile, None, "RGB")
    colours = colours.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        colours.putalpha(alpha)
    colours.info.clear()
    return colours


def upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; EXIF that can't be read says nothing of it."""
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except (MemoryError, ImportError):
        raise
    except Exception:  # noqa: S110
        # It raises nearly everything on damaged data.
        pass
    return picture


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scale gray of 16 bits to 8; every other picture is returned as it is."""
    if not picture.mode.startswith("I"):
        return picture
    deep = np.asarray(picture)
    gray = np.empty(deep.shape, np.uint8)
    for top in range(0, len(deep), 256):
        rows = deep[top : top + 256].astype(np.float32) / 257
        gray[top : top + 256] = rows.round().clip(0, 255)
    return Image.fromarray(gray)


def between_profiles(
    colours: Image.Image, source: bytes | None, target: bytes | None, mode: str
) -> Image.Image:
    """Convert from one ICC profile to another, None being sRGB; the result is of `mode`.

    A profile that doesn't fit the picture's channels says nothing about its colours and is
    ignored.
    """

    def profile(data: bytes | None) -> ImageCms.ImageCmsProfile:
        return ImageCms.ImageCmsProfile(
            io.BytesIO(data) if data else ImageCms.createProfile("sRGB")
        )

    with contextlib.suppress(ImageCms.PyCMSError, OSError):
        converted = ImageCms.profileToProfile(
            colours, profile(source), profile(target), outputMode=mode
        )
        return cast(Image.Image, converted)
    return colours.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    """RGB over white: how a product or a drawing on nothing is seen, and read well by models."""
    if image.mode == "RGB":
        return image
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def read_own(path: Path) -> Image.Image:
    """Decode a PNG that this project wrote, of any size. Raises Unreadable."""
    try:
        picture = Image.open(path, formats=("PNG",))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(_("{name} is missing or damaged").format(name=path.name)) from error
    return picture


def write_own(picture: Image.Image, path: Path) -> None:
    """Write a PNG for GIMP to read, whole or not at all, 0600. Raises OSError."""
    settings.write_private(path, png(picture))


def write_layer(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write RGB or RGBA (height, width, 3 or 4) as a PNG that is quick to become a layer.

    It is not packed. The rest is as with `write_own`.
    """
    height, width, channels = pixels.shape
    together = max(1, quick_png.STRIP_PIXELS // width)
    strips = (pixels[top : top + together].tobytes() for top in range(0, height, together))
    settings.write_private(path, b"".join(quick_png.encoded((width, height), channels, strips)))


def pack(path: Path) -> None:
    """Make a PNG of ours small that was written in haste. Raises OSError and Unreadable."""
    picture = read_own(path)
    if path.stat().st_size > picture.width * picture.height * len(picture.getbands()):
        write_own(picture, path)


def png(picture: Image.Image, hard: bool = False) -> bytes:
    """Encode L, RGB or RGBA as PNG: quickly, or small where bytes are what counts."""
    if hard:
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=7)
        return out.getvalue()
    pixels = np.asarray(picture)
    if picture.mode in _TO_OPENCV:
        pixels = cv2.cvtColor(pixels, _TO_OPENCV[picture.mode])
    return cv2.imencode(".png", pixels, _QUICK)[1].tobytes()
