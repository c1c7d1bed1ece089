"""Reading and writing pictures: strict about what came from outside, quick about our own.

Pictures in the worker are Pillow images in sRGB, mode RGB or RGBA (straight alpha), 8 bits.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from plugin import settings
from plugin.words import _

FOREIGN_FORMATS = ("PNG", "JPEG", "WEBP")
FOREIGN_BYTES = 64_000_000
"""Most bytes of one picture that is read from the service."""
FOREIGN_PIXELS = 64_000_000
"""Most pixels of one, far above the largest that the service makes (8.3 million)."""

_QUICK = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""Half of the time that Pillow takes to choose a filter for each row, for the same size."""
_UNPACKED = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 0),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)
_TO_OPENCV = {"RGB": cv2.COLOR_RGB2BGR, "RGBA": cv2.COLOR_RGBA2BGRA}

# Pillow's own limit counts for the user's pictures too, which may be larger; ours are told apart.
Image.MAX_IMAGE_PIXELS = None


class Unreadable(Exception):
    """The bytes are no picture that can be used; the message is a clause that says why."""


def read_foreign(data: bytes) -> Image.Image:
    """Decode a picture from outside whole, upright, in sRGB, to RGB or RGBA of 8 bits.

    What it is shows in the bytes alone, never in a name or a declared type. Of an animation the
    first frame is taken. Raises Unreadable.
    """
    if len(data) > FOREIGN_BYTES:
        raise Unreadable(_("it has more than {size} MB").format(size=FOREIGN_BYTES // 1_000_000))
    try:
        picture = Image.open(io.BytesIO(data), formats=FOREIGN_FORMATS)
        width, height = picture.size
        if not width or not height:
            raise Unreadable(_("it has no pixels"))
        if width * height > FOREIGN_PIXELS:
            raise Unreadable(
                _("it has {width}×{height} pixels, more than any real answer").format(
                    width=width, height=height
                )
            )
        picture.load()
        return upright_srgb(picture)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(_("it is not a PNG, JPEG or WebP picture")) from error
    except Exception as error:
        # Pillow's decoders raise nearly everything on damaged data, struct.error to SyntaxError.
        raise Unreadable(_("it is damaged ({why})").format(why=type(error).__name__)) from error


def upright_srgb(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation and the embedded profile, then drop both; RGB or RGBA."""
    picture = eight_bits(upright(picture))
    if picture.mode == "RGB" and not {"icc_profile", "transparency"} & picture.info.keys():
        # Most answers: each step below would copy it.
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
    # It raises nearly everything on damaged data.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scale gray of 16 bits to 8; every other picture is returned as it is."""
    if not picture.mode.startswith("I"):
        return picture
    deep = np.asarray(picture).astype(np.float32) / 257
    return Image.fromarray(deep.round().clip(0, 255).astype(np.uint8))


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


def write_layer(picture: Image.Image, path: Path) -> None:
    """Write RGB or RGBA as a PNG that is quick to become a layer; the rest is as with `write_own`.

    It is not packed, and has an alpha channel: GEGL would have to find out first how to add one.
    """
    to_opencv = cv2.COLOR_RGB2BGRA if picture.mode == "RGB" else cv2.COLOR_RGBA2BGRA
    pixels = cv2.cvtColor(np.asarray(picture), to_opencv)
    settings.write_private(path, cv2.imencode(".png", pixels, _UNPACKED)[1].data)


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
