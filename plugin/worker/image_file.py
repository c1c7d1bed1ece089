"""A picture file as what is edited: the edit without GIMP.

What lies outside the mask keeps its very values; the result is a PNG beside the original, in the
original's mode and profile.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from plugin.region import Box
from plugin.words import _
from plugin.worker.failure import Failure
from plugin.worker.picture import between_profiles, eight_bits, upright, upright_srgb

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_KEPT_MODES = ("L", "LA", "RGB", "RGBA")
_MOST_PIXELS = 400_000_000
"""What is edited is held several times over, with four bytes per pixel."""


def read_image(path: Path) -> Image.Image:
    """Return the picture upright, in a mode of 8 bits that holds all its values.

    Raises Failure with a sentence for the user where there is no such mode.
    """
    picture, raw_mode = _open(path)
    deep = picture.mode.startswith(("I", "F")) or ";16" in raw_mode
    if deep or picture.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        kind = (
            _("more than 8 bits per channel")
            if deep
            else _("{mode} colours").format(mode=picture.mode)
        )
        raise Failure(
            Failure.SETUP,
            _(
                "{name} holds {kind}, which the command line can't keep exactly: edit it in "
                "GIMP, or convert it to 8-bit RGB first."
            ).format(name=path.name, kind=kind),
        )
    picture = upright(picture)
    if picture.mode not in _KEPT_MODES:
        see_through = "transparency" in picture.info or picture.mode in ("PA", "La", "RGBa")
        picture = picture.convert("RGBA" if see_through else "RGB")
    elif "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the mask as L of `size`, 255 = edit.

    A mask with transparency says it by alpha (transparent = edit), any other by lightness
    (white = edit). Raises Failure.
    """
    picture = eight_bits(upright(_open(path)[0]))
    if picture.size != size:
        raise Failure(
            Failure.SETUP,
            _(
                "The mask {name} has {mask} pixels and the picture {picture}: they must be the "
                "same."
            ).format(
                name=path.name,
                mask=f"{picture.width}×{picture.height}",
                picture=f"{size[0]}×{size[1]}",
            ),
        )
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if "A" in picture.getbands() and picture.getchannel("A").getextrema() != (255, 255):
        mask = picture.getchannel("A").point(lambda value: 255 - value)
    else:
        mask = picture.convert("RGB").convert("L")
    if mask.getbbox() is None:
        raise Failure(
            Failure.SETUP,
            _("The mask {name} is empty: make white what is to change.").format(name=path.name),
        )
    return mask


def read_reference(path: Path) -> Image.Image:
    """Return a picture to look at, of any depth and kind, upright in sRGB. Raises Failure."""
    return upright_srgb(_open(path)[0])


def bounds(mask: Image.Image) -> Box:
    """Return the smallest box around what `mask` (not empty) selects."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    return Box(left, top, right - left, bottom - top)


def content(image: Image.Image, box: Box) -> Image.Image:
    """Return the pixels of `box` in sRGB, RGB or RGBA: what is sent."""
    part = image.crop((box.x, box.y, box.right, box.bottom))
    part.info = dict(image.info)
    return upright_srgb(part)


def merge(
    image: Image.Image, placed: Image.Image, box: Box, mask: Image.Image | None
) -> Image.Image:
    """Return a copy of `image` with `placed` (sRGB, the size of `box`) put in through `mask`."""
    merged = image.copy()
    result = _in_profile(placed, image)
    if mask is None:
        merged.paste(result, (box.x, box.y))
    else:
        part = mask.crop((box.x, box.y, box.right, box.bottom))
        merged.paste(result, (box.x, box.y), part)
    return merged


def save(image: Image.Image, folder: Path, name: str) -> Path:
    """Write a PNG under a name that was free, and return its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{name}-{number}.png"
        try:
            with open(path, "xb") as file:
                try:
                    image.save(
                        file, "PNG", compress_level=6, icc_profile=image.info.get("icc_profile")
                    )
                except OSError:
                    path.unlink()
                    raise
            return path
        except FileExistsError:
            number += 1


def _open(path: Path) -> tuple[Image.Image, str]:
    """Return the picture and how its file stores a pixel, the only place that tells its depth."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise Failure(
                    Failure.SETUP,
                    _(
                        "{path} has {width}×{height} pixels, and the command line takes at most "
                        "{most} million: scale it down, or edit a part of it in GIMP."
                    ).format(
                        path=path,
                        width=picture.width,
                        height=picture.height,
                        most=_MOST_PIXELS // 1_000_000,
                    ),
                )
            tiles = getattr(picture, "tile", [])
            arguments = tiles[0][3] if tiles else ""
            raw_mode = arguments if isinstance(arguments, str) else str(arguments[0])
            picture.load()
            return picture, raw_mode
    except UnidentifiedImageError as error:
        raise Failure(
            Failure.SETUP, _("{path} is no picture that can be read here.").format(path=path)
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Failure(
            Failure.SETUP, _("{path} can't be read: {why}.").format(path=path, why=error)
        ) from error


def _in_profile(placed: Image.Image, image: Image.Image) -> Image.Image:
    """Bring sRGB pixels into the mode and profile of `image`."""
    profile = image.info.get("icc_profile")
    base = "L" if image.mode in ("L", "LA") else "RGB"
    colours = placed.convert("RGB")
    if profile:
        colours = between_profiles(colours, None, profile, base)
    colours = colours.convert(base)
    if image.mode in ("LA", "RGBA"):
        alpha = (
            placed.getchannel("A") if placed.mode == "RGBA" else Image.new("L", placed.size, 255)
        )
        colours.putalpha(alpha)
    return colours
