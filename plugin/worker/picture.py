"""Read and write pictures.

Pictures from the service are checked strictly when they are read. Pictures that this project wrote
itself are read and written quickly. In the worker, every picture is a Pillow image in sRGB, of mode
RGB or RGBA (alpha not premultiplied), with 8 bits per channel.
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

from plugin import quick_png, storage
from plugin.translation import _
from plugin.worker import picture_parts

FOREIGN_FORMATS = ("PNG", "JPEG", "WEBP")
FOREIGN_BYTES = 64_000_000
"""The most bytes that a picture file from the service may have."""
FOREIGN_PIXELS = 64_000_000
"""The most pixels of a picture from the service. Its largest pictures have 8.3 million."""
_LARGE = 16_000_000
"""A picture with at least this many pixels is scaled down while it is read, if the caller needs far
fewer pixels."""
_SMALL = 100_000
"""A picture with at most this many pixels needs so little memory that this is not tested."""

_QUICK = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""OpenCV's options for writing PNG. With them, writing takes half as long as with Pillow, which
chooses a filter for each row of pixels. The files have about the same size."""
_TO_OPENCV = {"RGB": cv2.COLOR_RGB2BGR, "RGBA": cv2.COLOR_RGBA2BGRA}

# Turn Pillow's limit off, because it would also reject large pictures of the user. This module has
# its own limit for pictures from the service.
Image.MAX_IMAGE_PIXELS = None
# Let Pillow allocate memory in large blocks. Only blocks of at least 32 MB are returned to the
# operating system when they are freed. Smaller ones stay reserved for the thread that used them.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]


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
        data, profile = picture_parts.plain_png(data)
    try:
        picture, delivered = _loaded(data, found, needed)
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception:
        # In spite of the damage, the file possibly contains all pixels. Repair it and try again.
        if (mended := picture_parts.mended(data, found)) is None:
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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that there was not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    )


class Room:
    """Limits how many pixels are processed at once by all threads together.

    A picture with more pixels than the limit is processed alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Reserve `count` pixels for the duration of a `with` block.

        Before the block begins, wait until other threads have released enough pixels.
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

    The EXIF data and the colour profile are removed. The mode is RGBA only if at least one pixel
    is not fully opaque.
    """
    picture = eight_bits(upright(picture))
    if picture.mode == "RGB" and not {"icc_profile", "transparency"} & picture.info.keys():
        # Most pictures from the service are already plain RGB. Return them without the steps below,
        # each of which would copy all pixels.
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
    """Turn the picture as its EXIF orientation says, in place, and return it.

    EXIF data that can't be read is ignored.
    """
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except (MemoryError, ImportError):
        raise
    except Exception:  # noqa: S110
        # Damaged EXIF data causes nearly any exception.
        pass
    return picture


def eight_bits(picture: Image.Image) -> Image.Image:
    """Convert a gray picture from 16 to 8 bits per pixel. Return any other picture unchanged."""
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
    """Convert a picture from the ICC colour profile `source` to `target`; None means sRGB.

    Return a picture of mode `mode`. If a profile is damaged or doesn't match the channels of the
    picture, only the mode is converted.
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

    White is used because cut-out products and drawings without a background are usually shown on
    white, and AI models understand such pictures well.
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
    """Write a picture as a PNG file with the file mode 0600, either completely or not at all.

    Raises OSError.
    """
    storage.write_private(path, png(picture))


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
    picture = read_own(path)
    if path.stat().st_size > picture.width * picture.height * len(picture.getbands()):
        write_own(picture, path)


def png(picture: Image.Image, hard: bool = False) -> bytes:
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
