"""Convert pictures to upright sRGB pictures with 8 bits per channel."""

from __future__ import annotations

import contextlib
import io
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageOps


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
