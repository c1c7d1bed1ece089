"""A picture file as what is edited: the edit without GIMP.

What lies outside the mask keeps its very values; the result is a PNG beside the original, in the
original's mode and profile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, UnidentifiedImageError

from plugin.region import Box
from plugin.words import _
from plugin.worker.failure import Failure
from plugin.worker.picture import between_profiles, eight_bits, upright, upright_srgb

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_KEPT_MODES = ("L", "LA", "RGB", "RGBA")
_MOST_PIXELS = 400_000_000
"""What is edited is held several times over, with four bytes per pixel."""


def copy(path: Path, target: Path) -> None:
    """Copy a picture's file, flushed to the disk.

    Raises Failure with a sentence for the user if it is no picture, OSError if the copy can't be
    written.
    """
    with contextlib.ExitStack() as opened:
        with _telling(path):
            file = opened.enter_context(open(path, "rb"))
            # Nothing large is copied in vain.
            with Image.open(file, formats=_FORMATS) as picture:
                _check_size(picture, path)
            file.seek(0)
        with open(target, "wb") as copied:
            shutil.copyfileobj(file, copied, 1 << 20)
            copied.flush()
            os.fsync(copied.fileno())


def read_image(path: Path, copied: Path | None = None) -> Image.Image:
    """Return the picture upright, in a mode of 8 bits that holds all its values.

    What is read is the copy of its file, if one is given. Raises Failure with a sentence for the
    user, which names `path`, also where there is no such mode.
    """
    picture, raw_mode = _open(path, copied)
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
    image: Image.Image,
    placed: Image.Image,
    box: Box,
    mask: Image.Image | None,
    keep_alpha: bool,
) -> Image.Image:
    """Return a copy of `image` with `placed` (sRGB) laid over it through `mask` (L).

    `placed` and `mask` have the size of `box`. Where either is 0, every value stays as it is.
    With `keep_alpha` the colours alone are taken, and the transparency of `image` stays.
    """
    merged = image.copy()
    result = _in_profile(placed, image)
    share = placed.getchannel("A") if placed.mode == "RGBA" else Image.new("L", placed.size, 255)
    if mask is not None:
        share = ImageChops.multiply(share, mask)
    if image.mode not in ("LA", "RGBA"):
        merged.paste(result, (box.x, box.y), share)
        return merged
    part = image.crop((box.x, box.y, box.right, box.bottom))
    if keep_alpha:
        result.putalpha(part.getchannel("A"))
    else:
        result.putalpha(share)
        laid = Image.alpha_composite(part.convert("RGBA"), result.convert("RGBA"))
        result = laid.convert(image.mode)
    merged.paste(result, (box.x, box.y))
    return merged


def check_writable(folder: Path, name: str, room: int) -> None:
    """Find out by trying whether `save` can write there, and whether `room` bytes are free.

    Raises Failure with a sentence for the user.
    """
    try:
        _new_file(folder, name).unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sentence = _(
                "The name of {name} is too long for those of its results: rename the picture. "
                "Nothing was sent."
            ).format(name=name)
        else:
            sentence = _(
                "Results can't be written to {folder} ({why}): name another folder with --out. "
                "Nothing was sent."
            ).format(folder=folder, why=why(error))
        raise Failure(Failure.SETUP, sentence) from error
    if free < room:
        raise Failure(
            Failure.SETUP,
            _(
                "Results may need {room} MB, and {folder} has {free} MB left: free some space "
                "there, or name another folder with --out. Nothing was sent."
            ).format(room=-(-room // 1_000_000), folder=folder, free=free // 1_000_000),
        )


def save(image: Image.Image, folder: Path, name: str) -> Path:
    """Write a PNG under a name that was free, and return its path. Raises OSError."""
    path = _new_file(folder, name)
    try:
        with open(path, "wb") as file:
            image.save(file, "PNG", compress_level=6, icc_profile=image.info.get("icc_profile"))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return path


def why(error: OSError) -> str:
    """Return what went wrong with a folder, in the system's words."""
    # A file that stands where a folder is to be made.
    code = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
    return os.strerror(code) if code else str(error)


def _new_file(folder: Path, name: str) -> Path:
    """Make an empty file under a name that was free, and the folder if need be. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{name}-{number}.png"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


def _open(path: Path, copied: Path | None = None) -> tuple[Image.Image, str]:
    """Return the picture and how its file stores a pixel, the only place that tells its depth."""
    with _telling(path), Image.open(copied or path, formats=_FORMATS) as picture:
        _check_size(picture, path)
        tiles = getattr(picture, "tile", [])
        arguments = tiles[0][3] if tiles else ""
        raw_mode = arguments if isinstance(arguments, str) else str(arguments[0])
        picture.load()
        return picture, raw_mode


def _check_size(picture: Image.Image, path: Path) -> None:
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


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Raise what goes wrong with the picture `path` as a Failure."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise Failure(
            Failure.SETUP, _("{path} is no picture that can be read here.").format(path=path)
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Failure(
            Failure.SETUP, _("{path} can't be read: {why}.").format(path=path, why=error)
        ) from error


def _in_profile(placed: Image.Image, image: Image.Image) -> Image.Image:
    """Return the colours of sRGB pixels in the profile of `image`, as L or RGB like them."""
    profile = image.info.get("icc_profile")
    base = "L" if image.mode in ("L", "LA") else "RGB"
    colours = placed.convert("RGB")
    if profile:
        colours = between_profiles(colours, None, profile, base)
    return colours.convert(base)
