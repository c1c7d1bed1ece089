"""Read and write pictures: strictly those from the service, quickly those of the project itself.

Pictures in the worker are Pillow images in sRGB, of mode RGB or RGBA (straight alpha), with 8 bits
per channel.
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
"""The most bytes of a picture from the service."""
FOREIGN_PIXELS = 64_000_000
"""The most pixels of such a picture, far more than the service makes (8.3 million)."""
_LARGE = 16_000_000
"""The number of pixels from which a picture is scaled down on reading, if far fewer are needed."""
_SMALL = 100_000
"""A picture of up to so many pixels needs a negligible amount of memory."""

_QUICK = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""OpenCV's options for PNG. They take half of Pillow's time, which chooses a filter for each row,
for files of the same size."""
_TO_OPENCV = {"RGB": cv2.COLOR_RGB2BGR, "RGBA": cv2.COLOR_RGBA2BGRA}

# Pillow's limit would also apply to the user's own pictures, which may be larger. The limits here
# depend on where a picture comes from.
Image.MAX_IMAGE_PIXELS = None
# Blocks of memory from 32 MB on are returned to the system. Smaller ones stay with the thread that
# used them, so Pillow allocates large ones.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]


class Unreadable(Exception):
    """The bytes are not a usable picture. The message is a clause that says why."""


def kind(data: bytes) -> str:
    """Return the name of a picture's format by its first bytes; "" if they are no picture's."""
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
    """Return a picture from the service, upright, in sRGB, as RGB or RGBA with 8 bits per channel.

    The format is recognised by the bytes only, never by a file name or a declared type. Of an
    animation, the first frame is returned. Raises Unreadable if the picture can't be used. Any
    other exception, such as MemoryError, is a problem of this machine, not of the picture.
    """
    return read_result(data, None)[0]


def read_result(data: bytes, needed: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """Return what `read_foreign` returns, and the (width, height) of the picture in the file.

    A very large picture is scaled down by a whole number to save memory, if the `needed` (width,
    height) is much smaller. It remains at least twice as wide and high as needed.
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
        # On damaged data, Pillow's decoders raise nearly any exception, from struct.error to
        # SyntaxError. They do so as well if something is wrong with this machine. A test with
        # another picture shows which it is.
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
        # All pixels may be there in spite of the damage.
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
    """Decode a picture, and return it with its (width, height) in the file.

    A JPEG may be decoded smaller. Raises Unreadable if the picture is too large or empty, and
    nearly any exception if it is damaged.
    """
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
        # This only has an effect on JPEGs.
        picture.draft(None, (width // factor, height // factor))
    picture.load()
    return picture, (width, height)


def pixels(data: bytes) -> int:
    """Return how many pixels a picture has according to its header, at most FOREIGN_PIXELS.

    If the header can't be read, return FOREIGN_PIXELS.
    """
    with contextlib.suppress(Exception):
        width, height = Image.open(io.BytesIO(data), formats=FOREIGN_FORMATS).size
        return min(width * height, FOREIGN_PIXELS)
    return FOREIGN_PIXELS


def _factor(size: tuple[int, int], needed: tuple[int, int] | None) -> int:
    """Return the whole number by which a picture may be scaled down.

    Both sides keep at least twice the `needed` pixels. Longer sides are compared with each other,
    since the picture may be stored turned by 90°.
    """
    if needed is None or size[0] * size[1] < _LARGE:
        return 1
    shares = (have // (2 * want) for have, want in zip(sorted(size), sorted(needed)))
    return max(1, min(shares))


def _reduced(picture: Image.Image, factor: int) -> Image.Image:
    """Return the picture scaled down by a whole number, strip by strip to save memory."""
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
    """Check that this machine can decode a picture of this format with `count` pixels.

    Raises the exception that prevents it.
    """
    sample = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(sample, found)
    Image.open(io.BytesIO(sample.getvalue()), formats=(found,)).load()
    if count > _SMALL:
        # Decoders don't always report that they get no memory. This allocates the memory that the
        # picture needs, without using it.
        np.empty(4 * count, np.uint8)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that there was not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    )


class Room:
    """A limit for the pixels processed at once. A single picture may have any number of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Reserve `count` pixels for a `with` block.

        This first waits until they are within the limit.
        """
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
    """Return the picture as RGB or RGBA in sRGB, with its EXIF orientation applied.

    The EXIF data and the colour profile are removed. Without transparent pixels it is RGB.
    """
    picture = eight_bits(upright(picture))
    if picture.mode == "RGB" and not {"icc_profile", "transparency"} & picture.info.keys():
        # Most pictures from the service are like this. Each step below would copy the pixels.
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
    """Apply the EXIF orientation to the picture itself. EXIF data that can't be read is ignored."""
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except (MemoryError, ImportError):
        raise
    except Exception:  # noqa: S110
        # Damaged EXIF data causes nearly any exception.
        pass
    return picture


def eight_bits(picture: Image.Image) -> Image.Image:
    """Return a gray picture of 16 bits with 8 bits; any other picture is returned as it is."""
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
    """Convert colours from one ICC colour profile to another; None means sRGB.

    The result has the mode `mode`. If a profile is damaged or doesn't match the channels of the
    picture, the colours are not converted.
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
    """Return a picture as RGB, with white behind transparent pixels.

    That is how people see a cut-out product or a drawing without a background, and models
    understand it well.
    """
    if image.mode == "RGB":
        return image
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def read_own(path: Path) -> Image.Image:
    """Read a PNG of any size that this project wrote. Raises Unreadable."""
    try:
        picture = Image.open(path, formats=("PNG",))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(_("{name} is missing or damaged").format(name=path.name)) from error
    return picture


def write_own(picture: Image.Image, path: Path) -> None:
    """Write a PNG, either completely or not at all, with the mode 0600. Raises OSError."""
    settings.write_private(path, png(picture))


def write_layer(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write RGB or RGBA pixels (height, width, 3 or 4) as a PNG that GIMP can read quickly.

    The PNG is not compressed. It is written completely or not at all, with the mode 0600. Raises
    OSError.
    """
    height, width, channels = pixels.shape
    together = max(1, quick_png.STRIP_PIXELS // width)
    strips = (pixels[top : top + together].tobytes() for top in range(0, height, together))
    settings.write_private(path, b"".join(quick_png.encoded((width, height), channels, strips)))


def pack(path: Path) -> None:
    """Compress a PNG that this project wrote uncompressed. Raises OSError and Unreadable."""
    picture = read_own(path)
    if path.stat().st_size > picture.width * picture.height * len(picture.getbands()):
        write_own(picture, path)


def png(picture: Image.Image, hard: bool = False) -> bytes:
    """Encode an L, RGB or RGBA picture as PNG: quickly, or with `hard` as a smaller file."""
    if hard:
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=7)
        return out.getvalue()
    pixels = np.asarray(picture)
    if picture.mode in _TO_OPENCV:
        pixels = cv2.cvtColor(pixels, _TO_OPENCV[picture.mode])
    return cv2.imencode(".png", pixels, _QUICK)[1].tobytes()
